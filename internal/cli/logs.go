package cli

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
)

type logsCmd struct {
	Show      logsShowCmd      `cmd:"" default:"withargs" help:"Show a job's log."`
	Search    logsSearchCmd    `cmd:"" help:"Find lines in the logs of the org's jobs."`
	Retention logsRetentionCmd `cmd:"" help:"Show or say how long the org's logs are kept."`
	Migrate   logsMigrateCmd   `cmd:"" help:"Make the tables of logs in ClickHouse, or bring them up to date."`
	Export    logsExportCmd    `cmd:"" help:"Keep the org's logs in a file."`
	Import    logsImportCmd    `cmd:"" help:"Bring them back."`
}

type logsShowCmd struct {
	ID     string `arg:"" complete:"jobs" help:"Its id, or 'last'."`
	Follow bool   `short:"f" help:"Go on until the job has ended and every line was shown." xor:"how"`
	Tail   int    `within:"0..1000" help:"Only so many lines, the last ones. 0: all." placeholder:"LINES" short:"n" xor:"how"`
	Raw    bool   `help:"Plain text to stdout: the bytes of each line as they are stored, and == before the name of a step." xor:"how"`
}

func (*logsShowCmd) Help() string {
	return "What the job wrote to stdout goes to stdout, everything else to stderr. A terminal gets of its control characters colours and styles alone; a pipe or a file gets what it wrote.\n\n" +
		usage("nimbus logs last", "nimbus logs -f last", "nimbus logs --tail 50 last", "nimbus logs --raw last > job.log", "nimbus logs last --json | jq -r 'select(.stream == \"stderr\") | .text'")
}

func (c *logsShowCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	j, err := findJob(ctx, cl, c.ID)
	if err != nil {
		return err
	}
	if c.Raw {
		return cl.RawLog(ctx, j.ID, a.Out)
	}
	p := newLogPrinter(a)
	if c.Tail > 0 {
		lines, err := cl.LogTail(ctx, j.ID, c.Tail)
		if err != nil {
			return err
		}
		for _, l := range lines {
			if err := p.line(l); err != nil {
				return err
			}
		}
		return nil
	}
	if c.Follow {
		for e, err := range cl.FollowLog(ctx, j.ID) {
			if err != nil {
				return err
			}
			if err := p.event(e); err != nil {
				return err
			}
		}
		return nil
	}
	for l, err := range cl.Log(ctx, j.ID, 1) {
		if err != nil {
			return err
		}
		if err := p.line(l); err != nil {
			return err
		}
	}
	if !j.LogComplete {
		a.info("%s", a.errStyle.Quiet("this is not all yet: nimbus logs -f "+j.ID))
	}
	return nil
}

// logPrinter shows lines: the job's stdout on stdout, the rest on stderr.
type logPrinter struct {
	app     *app
	json    *json.Encoder
	wrap    func(lineView) any // what --json writes of a line
	out     terminal.Screen
	err     terminal.Screen
	began   bool // an attempt was seen
	noticed bool // that the connection broke
}

func newLogPrinter(a *app) *logPrinter {
	e := json.NewEncoder(a.Out)
	e.SetEscapeHTML(false)
	return &logPrinter{
		app: a, json: e, wrap: func(l lineView) any { return l }, out: terminal.ScreenOf(a.Out), err: terminal.ScreenOf(a.Err),
	}
}

func (p *logPrinter) event(e client.LogEvent) error {
	switch e.Kind {
	case client.LogLine:
		p.noticed = false
		return p.line(e.Line)
	case client.LogAttempt:
		if p.began {
			p.app.info("%s", p.app.errStyle.Warn("the job begins anew; what was shown of it is void"))
		}
		p.began = true
	case client.LogInterrupted:
		if !p.noticed {
			p.app.info("%s", p.app.errStyle.Quiet("the connection broke, trying again"))
		}
		p.noticed = true
	case client.LogComplete:
		if !e.Whole {
			p.app.info("%s", p.app.errStyle.Warn("the end of the log is missing: it was lost with its host"))
		}
	}
	return nil
}

// line fails when stdout is gone.
func (p *logPrinter) line(l nimbus.Line) error {
	if p.app.root.JSON {
		return p.json.Encode(p.wrap(lineView(l)))
	}
	var err error
	switch l.Stream {
	case nimbus.StreamStdout:
		_, err = fmt.Fprintln(p.app.Out, p.out.Shown(l.Text))
	case nimbus.StreamStderr:
		fmt.Fprintln(p.app.Err, p.err.Shown(l.Text))
	case nimbus.StreamStep:
		p.app.info("%s", p.app.errStyle.Step("▸ "+terminal.OneLine(l.Text)))
	case nimbus.StreamSystem:
		p.app.info("%s", p.app.errStyle.Quiet(terminal.OneLine(l.Text)))
	}
	return err
}
