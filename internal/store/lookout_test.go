package store

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestLooksAtTheQueueReadIndexes holds what people and the leader ask of the
// queue to a cost that doesn't grow with history, or with what waits.
func TestLooksAtTheQueueReadIndexes(t *testing.T) {
	t.Parallel()
	s, err := Open(t.Context(), Config{DSN: "sqlite:" + t.TempDir() + "/nimbus.db"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	queries := generatedQueries(t)
	for name, index := range map[string]string{
		"Misplaced": "jobs_open_page", "Window": "queue_rank", "CountBacklog": "backlog_flow", "CountOrgBacklog": "backlog_flow",
		"OldestPending": "backlog_flow", "CountOrgStuck": "stuck_class", "RepoWeights": "flows_weighted",
		"BacklogFlows": "backlog_flow (class_id=? AND org_id=? AND priority=? AND repo_id>?)",
	} {
		i := slices.IndexFunc(queries, func(q string) bool { return strings.Contains(q, "-- name: "+name+" ") })
		if i < 0 {
			t.Fatalf("there is no query %s", name)
		}
		var args []any
		for n := 1; strings.Contains(queries[i], fmt.Sprintf("$%d", n)); n++ {
			args = append(args, 1)
		}
		rows, err := s.reader.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+queries[i], args...)
		steps, err := scanAll(rows, err, scanStep)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		plan := strings.Join(steps, "\n")
		for _, table := range []string{"jobs", "j", "backlog", "b", "f", "n", "queue", "stuck", "s", "flows", "repos"} {
			if strings.Contains(plan+"\n", "SCAN "+table+"\n") {
				t.Errorf("%s reads all of %s:\n%s", name, table, plan)
			}
		}
		if !strings.Contains(plan, index) {
			t.Errorf("%s does not read %s:\n%s", name, index, plan)
		}
	}
}
