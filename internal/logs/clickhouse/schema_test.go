package clickhouse

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

func TestMigrating(t *testing.T) {
	t.Parallel()
	migrated := open(t)
	if err := migrated.Check(t.Context()); err != nil {
		t.Errorf("after it: %v", err)
	}
	if from, statements, err := migrated.Plan(t.Context(), Layout{}); err != nil || from != len(migrations()) || len(statements) != 0 {
		t.Errorf("again: from %d, %q, %v", from, statements, err)
	}
	if from, to, err := migrated.Migrate(t.Context(), Layout{}); err != nil || from != to {
		t.Errorf("again: from %d to %d, %v", from, to, err)
	}

	fresh := storeAt(t, engine.server.URL+"/fresh")
	if err := fresh.Check(t.Context()); nimbus.ErrorCode(err) != nimbus.CodeConflict {
		t.Errorf("without tables: %v", err)
	}
	if _, err := fresh.Read(t.Context(), key(newOrg(), jobStart()), 1, 10); nimbus.ErrorCode(err) != nimbus.CodeUnavailable {
		t.Errorf("a read without tables: %v", err)
	}
	from, statements, err := fresh.Plan(t.Context(), Layout{})
	if err != nil || from != 0 || len(statements) < 6 {
		t.Fatalf("from %d: %q, %v", from, statements, err)
	}
	// One that broke off, anywhere, is done again; two at once do no harm.
	for n := range statements {
		s := storeAt(t, fmt.Sprintf("%s/broken_%d", engine.server.URL, n))
		half, err := s.DDL(Layout{}, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, statement := range half[:n] {
			if err := s.conn.Exec(t.Context(), statement); err != nil {
				t.Fatalf("%s: %v", statement, err)
			}
		}
		var two sync.WaitGroup
		for range 2 {
			two.Go(func() {
				if _, _, err := s.Migrate(t.Context(), Layout{}); err != nil {
					t.Errorf("after %d statements: %v", n, err)
				}
			})
		}
		two.Wait()
		if err := s.Check(t.Context()); err != nil {
			t.Errorf("after %d statements: %v", n, err)
		}
	}

	if err := migrated.conn.Exec(t.Context(), "INSERT INTO "+migrated.table("log_versions")+" (version) VALUES (1000)"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := migrated.Migrate(t.Context(), Layout{}); nimbus.ErrorCode(err) != nimbus.CodeConflict {
		t.Errorf("tables of a newer release: %v", err)
	}
	if err := migrated.Check(t.Context()); nimbus.ErrorCode(err) != nimbus.CodeConflict {
		t.Errorf("tables of a newer release: %v", err)
	}
}

// TestSyntaxOfWhatCannotRunHere: replication, users and policies need a server; the
// engine at least parses what is printed for them.
func TestSyntaxOfWhatCannotRunHere(t *testing.T) {
	t.Parallel()
	s := open(t)
	replicated, err := s.DDL(Layout{Cluster: "ours"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	policies, err := s.Reader("analyst", newOrg())
	if err != nil {
		t.Fatal(err)
	}
	for _, statement := range policies { // the same user for another org is another fence, not the old one
		if strings.HasPrefix(statement, "CREATE ") && !strings.Contains(statement, " OR REPLACE ") {
			t.Errorf("what is there stays: %s", statement)
		}
	}
	tables := 0
	for _, statement := range append(replicated, policies...) {
		var formatted string
		if err := s.conn.QueryRow(t.Context(), "SELECT formatQuery(unhex('"+fmt.Sprintf("%x", statement)+"'))").Scan(&formatted); err != nil {
			t.Errorf("%s: %v", statement, err)
		}
		if strings.HasPrefix(statement, "CREATE TABLE") || strings.Contains(statement, "\nCREATE TABLE") {
			tables++
			if !strings.Contains(statement, " ON CLUSTER `ours`") || !strings.Contains(statement, "= Replicated") || strings.Contains(statement, "non_replicated") {
				t.Errorf("not of a cluster: %s", statement)
			}
		}
	}
	if tables != 4 {
		t.Errorf("%d tables were looked at", tables)
	}
	for _, name := range []string{"", "a b", "a`b", "x' OR 1", "default"} {
		if _, err := s.Reader(name, newOrg()); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
			t.Errorf("a user %q: %v", name, err)
		}
		if name != "" && name != "default" {
			if _, _, err := s.Plan(t.Context(), Layout{Cluster: name}); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
				t.Errorf("a cluster %q: %v", name, err)
			}
		}
	}
	if _, err := s.Reader("analyst", "org_' OR 1"); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
		t.Errorf("an org that is none: %v", err)
	}
}

// TestRowFilter shows the second line with the engine's static form of it: a user
// who may see one org sees that one, whatever the query.
func TestRowFilter(t *testing.T) {
	t.Parallel()
	mine, other := newOrg(), newOrg()
	org, err := orgUUID(mine)
	if err != nil {
		t.Fatal(err)
	}
	server := testenv.ClickHouse(t)
	s := storeAt(t, server.URL+"/filtered")
	if _, _, err := s.Migrate(t.Context(), Layout{}); err != nil {
		t.Fatal(err)
	}
	for _, o := range []string{mine, other} {
		put(t, s, logs.Part{Key: key(o, jobStart()), Lines: someLines(newRandom(), 1, 7, jobStart())})
	}
	if n := rawCount(t, s, "log_lines", "count()"); n != 14 {
		t.Fatalf("without a filter there are %d rows", n)
	}
	server.Kill()
	err = server.Configure(`<clickhouse>
<profiles><default></default></profiles><quotas><default></default></quotas>
<users><default><password></password><networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota>
<databases><filtered><log_lines><filter>org_id = toUUID('` + org.String() + `')</filter></log_lines></filtered></databases>
</default></users></clickhouse>`)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	if n := rawCount(t, s, "log_lines", "count()"); n != 7 {
		t.Errorf("with it there are %d rows", n)
	}
	if n := rawCount(t, s, "log_lines", "uniqExact(org_id)"); n != 1 {
		t.Errorf("of %d orgs", n)
	}
}
