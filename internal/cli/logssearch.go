package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
)

type logsSearchCmd struct {
	Text   string            `arg:"" help:"What a line holds; capitals count."`
	Regexp bool              `short:"e" help:"TEXT is a regular expression (RE2); (?i) before it ignores case."`
	Level  string            `help:"Only lines that say they are at least so grave: debug, info, warn, error." enum:",debug,info,warn,error" default:"" placeholder:"LEVEL"`
	Since  moment            `help:"Only lines from this time on: 90m, 7d, 2026-05-01 or 2026-05-01T12:00:00Z." placeholder:"TIME"`
	Until  moment            `help:"Only lines from before this time." placeholder:"TIME"`
	Job    string            `complete:"jobs" help:"Only of this job, by its id or 'last'." placeholder:"ID"`
	Repo   string            `help:"Only of jobs of this repository." placeholder:"OWNER/NAME"`
	Meta   map[string]string `help:"Only of jobs with this metadata; KEY= stands for any value. May be repeated." mapsep:"none" placeholder:"KEY=VALUE"`
	Step   int32             `within:"0..1000000" help:"Only of the step with this number. 0: of all." default:"0" placeholder:"NUMBER"`
	Stream []string          `help:"Only of these streams: ${enum}." enum:"stdout,stderr,system,step" placeholder:"STREAM"`
	Limit  int               `within:"1..100000" help:"How many lines at most." default:"200" short:"n"`
}

func (*logsSearchCmd) Help() string {
	return "Lines of the newest attempts come first, those of each attempt in their order. A line's level is read from its text: ::error::, a \"level\" of JSON, ERROR near its start.\n\n" +
		usage(
			"nimbus logs search 'connection refused'",
			"nimbus logs search --level error --since 24h ''",
			"nimbus logs search -e '(?i)out of (memory|disk)' --repo octo/hello",
			"nimbus logs search --meta model=llama-3 'NaN loss'",
			"nimbus logs search --job last --json panic | jq -r .text",
		)
}

// foundView is a line that was found, as --json writes it, one a line.
type foundView struct {
	Job     string        `json:"job,omitempty"`
	Repo    string        `json:"repo,omitempty"`
	Attempt string        `json:"attempt"`
	Seq     int64         `json:"seq"`
	At      time.Time     `json:"at"`
	Stream  nimbus.Stream `json:"stream"`
	Step    int32         `json:"step"`
	Group   int32         `json:"group,omitempty"`
	Level   string        `json:"level,omitempty"`
	Text    string        `json:"text"`
}

func (c *logsSearchCmd) Run(ctx context.Context, a *app) error {
	q := client.LogQuery{Text: c.Text, Pattern: c.Regexp, Repo: c.Repo, Metadata: c.Meta, Step: c.Step, Level: c.Level, Since: c.Since.Time, Until: c.Until.Time}
	for _, s := range c.Stream {
		q.Streams = append(q.Streams, nimbus.Stream(s))
	}
	if c.Repo != "" && !nimbus.ValidRepo(c.Repo) { // no job is of such: the answer would be that there is no line
		return badUsage(nimbus.Errorf(nimbus.CodeInvalid, "--repo: %.80q is no OWNER/NAME", c.Repo))
	}
	return a.asking(func(cl *client.Client) error {
		if c.Job != "" {
			j, err := findJob(ctx, cl, c.Job)
			if err != nil {
				return err
			}
			q.JobID = j.ID
		}
		return c.show(ctx, a, cl, q)
	})
}

func (c *logsSearchCmd) show(ctx context.Context, a *app, cl *client.Client, q client.LogQuery) error {
	screen, shown := terminal.ScreenOf(a.Out), 0
	out := json.NewEncoder(screen.JSON(a.Out))
	out.SetEscapeHTML(false)
	for f, err := range cl.SearchLogs(ctx, q) {
		if err != nil {
			return err
		}
		if shown == c.Limit {
			a.info("%s", a.errStyle.Quiet("there are more: --limit shows them"))
			return nil
		}
		shown++
		l := f.Line
		if a.root.JSON {
			err = out.Encode(foundView{f.JobID, f.Repo, f.AttemptID, l.Seq, l.At, l.Stream, l.Step, l.Group, f.Level, l.Text})
		} else {
			_, err = fmt.Fprintf(a.Out, "%s:%d: %s\n", f.JobID, l.Seq, screen.Line(l.Text))
		}
		if err != nil {
			return err
		}
	}
	if shown == 0 {
		a.info("no such line")
	}
	return nil
}
