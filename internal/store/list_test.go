package store

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// TestListsWalkAnIndex: whatever is asked for, a page is read in its order from
// an index, and neither sorted nor looked for among all jobs.
func TestListsWalkAnIndex(t *testing.T) {
	t.Parallel()
	s, err := Open(t.Context(), Config{DSN: "sqlite:" + filepath.Join(t.TempDir(), "nimbus.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	open := []nimbus.State{nimbus.StateQueued}
	for name, try := range map[string]struct {
		repo  string
		f     scheduler.JobFilter
		index string
	}{
		"all":               {"", scheduler.JobFilter{}, "jobs_page"},
		"time":              {"", scheduler.JobFilter{Since: time.Unix(1, 0), Until: time.Unix(2, 0)}, "jobs_page"},
		"unfinished":        {"", scheduler.JobFilter{States: open}, "jobs_open_page"},
		"label":             {"", scheduler.JobFilter{Labels: []string{"docker"}}, "job_tags_page"},
		"two labels":        {"", scheduler.JobFilter{Labels: []string{"docker", "x64"}}, "job_tags_page"},
		"metadata":          {"", scheduler.JobFilter{Metadata: map[string]string{"k": "v"}}, "job_tags_page"},
		"unfinished, label": {"", scheduler.JobFilter{States: open, Labels: []string{"docker"}}, "jobs_open_page"},
		"repo":              {"repo_x", scheduler.JobFilter{}, "jobs_repo_page"},
		"failed":            {"", scheduler.JobFilter{Result: nimbus.ResultFailure}, "jobs_result_page"},
	} {
		text, args := listJobs("org", try.repo, try.f)
		_, page, _ := strings.Cut(text, "v.id IN (")
		page = strings.TrimSuffix(page, ") ORDER BY v.id DESC")
		rows, err := s.reader.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+page, args...)
		if err != nil {
			t.Fatalf("%s: %v in:\n%s", name, err, page)
		}
		steps, err := scanAll(rows, err, scanStep)
		if err != nil {
			t.Fatal(err)
		}
		plan := strings.Join(steps, "\n")
		text, args = pickJobs(outcomeColumns, outcomeJoin, "org", try.repo, try.f)
		rows, err = s.reader.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+text, args...)
		more, err := scanAll(rows, err, scanStep)
		if err != nil {
			t.Fatalf("%s: %v in:\n%s", name, err, text)
		}
		if joined := strings.Join(more, "\n"); !strings.Contains(joined, try.index) || strings.Contains(joined, "TEMP B-TREE") || strings.Contains(joined, "SCAN") {
			t.Errorf("%s: outcomes are read by\n%s", name, joined)
		}
		if !strings.Contains(plan, try.index) || strings.Contains(plan, "TEMP B-TREE") || strings.Contains(plan, "SCAN") {
			t.Errorf("%s: a page is read by\n%s\nof\n%s", name, plan, page)
		}
	}
}

func scanStep(rows scanner, step *string) error {
	var id, parent, unused int
	return rows.Scan(&id, &parent, &unused, step)
}
