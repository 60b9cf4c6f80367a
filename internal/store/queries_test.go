package store

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// TestEveryQueryPreparesOnBothEngines keeps the queries portable: sqlc checks
// them against PostgreSQL's grammar alone.
func TestEveryQueryPreparesOnBothEngines(t *testing.T) {
	t.Parallel()
	queries := generatedQueries(t)
	for name, dsn := range map[string]func(*testing.T) string{
		"sqlite":   func(t *testing.T) string { return "sqlite:" + filepath.Join(t.TempDir(), "nimbus.db") },
		"postgres": func(t *testing.T) string { return testenv.Postgres(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := Open(t.Context(), Config{DSN: dsn(t)})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			for _, q := range queries {
				if err := prepare(t, s, q); err != nil {
					t.Errorf("%v in:\n%s", err, q)
				}
			}
		})
	}
}

func prepare(t *testing.T, s *Store, query string) error {
	t.Helper()
	stmt, err := s.writer.PrepareContext(t.Context(), query)
	if err != nil {
		return err
	}
	defer stmt.Close()
	return nil
}

// generatedQueries are the query texts that sqlc wrote into gen/.
func generatedQueries(t *testing.T) (queries []string) {
	t.Helper()
	files, err := filepath.Glob("gen/*.sql.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if q, err := strconv.Unquote(lit.Value); err == nil && strings.HasPrefix(q, "-- name:") {
					queries = append(queries, q)
				}
			}
			return true
		})
	}
	if len(queries) < 40 {
		t.Fatalf("found %d queries in gen/, that can't be all", len(queries))
	}
	return queries
}

// TestNoQueryWalksAHistory keeps every query that touches a table which grows
// for ever on an index: the sweeps run each second.
func TestNoQueryWalksAHistory(t *testing.T) {
	t.Parallel()
	s, err := Open(t.Context(), Config{DSN: "sqlite:" + filepath.Join(t.TempDir(), "nimbus.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, q := range append(generatedQueries(t), newestCached) {
		for _, step := range plan(t, s, q) {
			table, scans := strings.CutPrefix(step, "SCAN ")
			table, _, onIndex := strings.Cut(table, " USING ")
			switch {
			case !scans || onIndex:
			case table == "jobs", table == "attempts", table == "a", table == "job_events", table == "deliveries", table == "forge_jobs",
				table == "cache_entries", table == "cache_blocks", table == "b", table == "e":
				t.Errorf("%s in:\n%s", step, q)
			}
		}
	}
}

// plan is what SQLite does for a query, step by step.
func plan(t *testing.T, s *Store, query string) (steps []string) {
	t.Helper()
	args := make([]any, 32)
	for i := range args {
		args[i] = "x"
	}
	for n := len(args); ; n-- { // as many as the query has
		rows, err := s.writer.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query, args[:n]...)
		if err != nil {
			if n == 0 {
				t.Fatalf("%v in:\n%s", err, query)
			}
			continue
		}
		defer rows.Close()
		for rows.Next() {
			var id, parent, unused int
			var detail string
			if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
				t.Fatal(err)
			}
			steps = append(steps, detail)
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		return steps
	}
}
