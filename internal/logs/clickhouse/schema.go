package clickhouse

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"strings"
	"text/template"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/nimbus-ci/nimbus"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// dedupWindow is of how many blocks the tables know the tokens: at a block a second
// almost three hours. What comes again later is merged, and read once.
const dedupWindow = 10_000

// Layout is how tables are made.
type Layout struct {
	// Cluster is a cluster of ClickHouse's own on whose servers the tables are made,
	// replicated; "" for one server.
	Cluster string
}

// versionsTable says which migrations were applied.
const versionsTable = `CREATE TABLE IF NOT EXISTS {{.DB}}.log_versions{{.OnCluster}} (
    version    UInt32,
    applied_at DateTime('UTC') DEFAULT now()
)
ENGINE = {{engine "MergeTree"}}
ORDER BY version`

// migrations are the files in their order: number 1 is the first.
func migrations() []string {
	names, err := fs.Glob(migrationFiles, "migrations/*.sql") // sorted
	if err != nil {
		panic(err) // the pattern is good
	}
	return names
}

// DDL is the statements of the migrations after version from.
func (s *Store) DDL(l Layout, from int) ([]string, error) {
	out := []string{"CREATE DATABASE IF NOT EXISTS `" + s.database + "`" + l.onCluster()}
	versions, err := s.render(l, versionsTable)
	if err != nil {
		return nil, err
	}
	out = append(out, versions...)
	for i, name := range migrations() {
		if i < from {
			continue
		}
		raw, err := migrationFiles.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read migration: %w", err)
		}
		statements, err := s.render(l, string(raw))
		if err != nil {
			return nil, err
		}
		out = append(out, statements...)
		out = append(out, fmt.Sprintf("INSERT INTO %s (version) VALUES (%d)", s.table("log_versions"), i+1))
	}
	return out, nil
}

// render makes statements of a migration.
func (s *Store) render(l Layout, text string) ([]string, error) {
	engine := func(name string) string {
		if l.Cluster != "" {
			return "Replicated" + name // its path is the server's default_replica_path
		}
		return name
	}
	t, err := template.New("").Funcs(template.FuncMap{"engine": engine}).Parse(text)
	if err != nil {
		return nil, fmt.Errorf("read migration: %w", err)
	}
	windows := fmt.Sprintf("non_replicated_deduplication_window = %d", dedupWindow)
	if l.Cluster != "" {
		windows = fmt.Sprintf("replicated_deduplication_window = %d, replicated_deduplication_window_seconds = 86400", dedupWindow)
	}
	var out strings.Builder
	if err := t.Execute(&out, map[string]string{"DB": "`" + s.database + "`", "OnCluster": l.onCluster(), "Windows": windows}); err != nil {
		return nil, fmt.Errorf("read migration: %w", err)
	}
	var statements []string
	for part := range strings.SplitSeq(out.String(), ";\n") {
		if part = strings.TrimSuffix(strings.TrimSpace(part), ";"); part != "" {
			statements = append(statements, part)
		}
	}
	return statements, nil
}

func (l Layout) check() error {
	if l.Cluster != "" && !databaseName.MatchString(l.Cluster) {
		return nimbus.Errorf(nimbus.CodeInvalid, "%q can't be a cluster's name here: use letters, digits and _", l.Cluster)
	}
	return nil
}

func (l Layout) onCluster() string {
	if l.Cluster == "" {
		return ""
	}
	return " ON CLUSTER `" + l.Cluster + "`"
}

// Plan is what Migrate would do: the version that is there, 0 for none, and the
// statements, none where all is done. Codes: conflict for tables of a newer release,
// invalid, unavailable.
func (s *Store) Plan(ctx context.Context, l Layout) (from int, statements []string, err error) {
	if err := l.check(); err != nil {
		return 0, nil, err
	}
	if from, err = s.version(ctx); err != nil {
		return 0, nil, err
	}
	if from == len(migrations()) {
		return from, nil, nil
	}
	statements, err = s.DDL(l, from)
	return from, statements, err
}

// Migrate makes the tables, or brings them up to date. Each statement can be
// repeated, so that one that broke off goes on, and two at once do no harm.
func (s *Store) Migrate(ctx context.Context, l Layout) (from, to int, err error) {
	from, statements, err := s.Plan(ctx, l)
	if err != nil {
		return from, from, err
	}
	for _, statement := range statements {
		if err := s.conn.Exec(ctx, statement); err != nil {
			return from, from, readableDDL(err)
		}
	}
	return from, len(migrations()), nil
}

func readableDDL(err error) error {
	if code(err) == 0 {
		return readable("make tables", err)
	}
	return nimbus.Errorf(nimbus.CodeInvalid, "ClickHouse refuses to make the tables: %w", err).
		WithHint("the user needs CREATE, and INSERT into log_versions; `nimbus logs migrate --dry-run` prints what to run as another")
}

// version is the newest migration that was applied, 0 for none.
func (s *Store) version(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	var version uint32
	err := s.conn.QueryRow(ctx, "SELECT max(version) FROM "+s.table("log_versions")).Scan(&version)
	if c := code(err); c == codeUnknownTable || c == codeUnknownDatabase {
		return 0, nil
	}
	if err != nil {
		return 0, readable("read the version of the tables", err)
	}
	if int(version) > len(migrations()) {
		return 0, nimbus.Errorf(nimbus.CodeConflict, "the tables in ClickHouse are of a newer release: version %d, this one knows %d", version, len(migrations())).
			WithHint("upgrade this program")
	}
	return int(version), nil
}

// Reader is the statements that let somebody read the lines of one org by SQL, and
// nothing else. Who read another org's before reads this one's instead. Only an
// administrator of ClickHouse can run them. Codes: invalid.
func (s *Store) Reader(user, orgID string) ([]string, error) {
	org, err := orgUUID(orgID)
	if err != nil {
		return nil, err
	}
	if !databaseName.MatchString(user) {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "%q can't be a user's name here: use letters, digits and _", user)
	}
	if user == s.user {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "%q is the user that Nimbus has itself", user)
	}
	var out []string
	for _, table := range []string{"log_lines", "log_stats"} {
		out = append(out,
			// Where a table has a policy, who has none may see no row at all: Nimbus must.
			fmt.Sprintf("CREATE ROW POLICY OR REPLACE nimbus_all ON %s AS PERMISSIVE FOR SELECT USING 1 TO `%s`", s.table(table), s.user),
			fmt.Sprintf("CREATE ROW POLICY OR REPLACE `%s_org` ON %s AS PERMISSIVE FOR SELECT USING org_id = toUUID('%s') TO `%s`", user, s.table(table), org, user),
		)
	}
	out = append(out, fmt.Sprintf("CREATE SETTINGS PROFILE OR REPLACE `%s_bounds` SETTINGS max_execution_time = 60, max_memory_usage = 4000000000, readonly = 1 TO `%s`", user, user))
	// The grants are last: there is no moment without the fence.
	for _, table := range []string{"log_lines", "log_stats"} {
		out = append(out, fmt.Sprintf("GRANT SELECT ON %s TO `%s`", s.table(table), user))
	}
	return out, nil
}

// insertSettings are of each insert.
func insertSettings(token string) clickhouse.Settings {
	return clickhouse.Settings{
		"insert_deduplication_token": token,
		// What came twice is merged some day: looking for it in each block costs more.
		"optimize_on_insert": 0,
		// The view's table drops a repeated block as the lines' does.
		"deduplicate_blocks_in_dependent_materialized_views": 1,
		// What is acknowledged has been written, not promised.
		"async_insert": 0,
		// A backlog of days may fall into many partitions.
		"max_partitions_per_insert_block": 0,
	}
}
