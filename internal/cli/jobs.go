package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
)

type jobsCmd struct {
	List    jobsListCmd    `cmd:"" default:"withargs" help:"List jobs, newest first."`
	Summary jobsSummaryCmd `cmd:"" help:"Show how jobs went: all together, or by a key of their metadata."`
}

type jobsListCmd struct {
	State  []string          `help:"Only jobs in one of these states: ${enum}." enum:"pending,queued,offered,accepted,running,finished,unschedulable" placeholder:"STATE"`
	Result string            `help:"Only finished jobs with this result: success, failure, cancelled, timed_out, lost." enum:",success,failure,cancelled,timed_out,lost" default:"" placeholder:"RESULT"`
	Label  []string          `help:"Only jobs with this label; may be repeated." sep:"none" placeholder:"LABEL"`
	Meta   map[string]string `help:"Only jobs with this metadata; KEY= stands for any value. May be repeated." mapsep:"none" placeholder:"KEY=VALUE"`
	Repo   string            `help:"Only jobs of this repository." placeholder:"OWNER/NAME"`
	Since  moment            `help:"Only jobs from this time on: 90m, 7d, 2026-05-01 or 2026-05-01T12:00:00Z." placeholder:"TIME"`
	Until  moment            `help:"Only jobs from before this time." placeholder:"TIME"`
	Limit  int               `within:"1..100000" help:"How many at most." default:"20" short:"n"`
}

func (*jobsListCmd) Help() string {
	return usage(
		"nimbus jobs",
		"nimbus jobs list --state running,queued",
		"nimbus jobs list --label gpu --meta model=llama-3 --since 24h --result failure",
		"nimbus jobs list --repo octo/hello --since 2026-05-01 --until 2026-06-01 --limit 500",
		"nimbus jobs --json --limit 200 | jq -r '.jobs[] | [.id, .result] | @tsv'",
	)
}

// moment is a time as people write it: how long ago, a day, or to the second.
type moment struct{ time.Time }

// UnmarshalText reads it.
func (m *moment) UnmarshalText(text []byte) error {
	s := string(text)
	if ago, err := time.ParseDuration(s); err == nil {
		m.Time = time.Now().Add(-ago)
		return nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil { // a Duration has room for so many
			m.Time = time.Now().Add(-time.Duration(n) * 24 * time.Hour)
			return nil
		}
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if at, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			m.Time = at
			return nil
		}
	}
	return fmt.Errorf("%q is no time: write 90m or 7d for how long ago, 2026-05-01, or 2026-05-01T12:00:00Z", s)
}

func (c *jobsListCmd) Run(ctx context.Context, a *app) error {
	jobs, err := c.list(ctx, a)
	if err != nil {
		return err
	}
	if a.root.JSON {
		v := struct {
			Jobs []jobView `json:"jobs"`
		}{Jobs: []jobView{}}
		for _, j := range jobs {
			v.Jobs = append(v.Jobs, viewJob(j))
		}
		return a.printJSON(v)
	}
	if len(jobs) == 0 {
		a.info("no jobs")
		return nil
	}
	var rows []string
	for _, j := range jobs {
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%s\t%s", j.ID, plainStatus(j), since(j.Timeline.ReceivedAt), took(j.Timeline), clip(terminal.OneLine(j.Name))))
	}
	return a.table("ID\tSTATUS\tRECEIVED\tTOOK\tNAME", rows)
}

// list pages until it has as many as were asked for.
func (c *jobsListCmd) list(ctx context.Context, a *app) ([]nimbus.Job, error) {
	cl, err := a.connect()
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	f := client.JobFilter{Result: nimbus.Result(c.Result), Labels: c.Label, Metadata: c.Meta, Repo: c.Repo, Since: c.Since.Time, Until: c.Until.Time}
	for _, s := range c.State {
		f.States = append(f.States, nimbus.State(s))
	}
	var jobs []nimbus.Job
	for len(jobs) < c.Limit {
		f.PageSize = min(c.Limit-len(jobs), 200)
		page, err := cl.Jobs(ctx, f)
		if err != nil {
			return nil, err
		}
		jobs = append(jobs, page.Jobs...)
		if f.PageToken = page.NextPageToken; f.PageToken == "" {
			break
		}
	}
	return jobs, nil
}

// plainStatus has no colour: the columns would not line up.
func plainStatus(j nimbus.Job) string { return status(terminal.Style{}, j) }

// since is how long ago something was, roughly.
func since(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return roughly(time.Since(t)) + " ago"
}

// took is how long a job ran, "-" before its end.
func took(t nimbus.Timeline) string {
	if t.FinishedAt.IsZero() || t.RunningAt.IsZero() {
		return "-"
	}
	return roughly(t.FinishedAt.Sub(t.RunningAt))
}

func roughly(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%.0f h", d.Hours())
	}
	return fmt.Sprintf("%.0f days", d.Hours()/24)
}

// clip shortens a name to what fits in a column.
func clip(s string) string {
	const most = 60
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}
