package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"

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
	Follow bool   `short:"f" help:"Go on until the job has ended and every line was shown." xor:"follow"`
	Tail   int    `within:"0..1000" help:"Only so many lines, the last ones, at most 1000; with --follow these first. 0: all." placeholder:"LINES" short:"n" xor:"tail"`
	Raw    bool   `help:"Plain text to stdout: the bytes of each line as they are stored, and == before the name of a step. A terminal gets no control characters this way either, but for colours and styles." xor:"follow,tail"`
}

func (*logsShowCmd) Help() string {
	return "What the job wrote to stdout goes to stdout, everything else to stderr. A terminal gets of its control characters colours and styles alone (NO_COLOR: not these), of a progress bar what it came to, and GitHub's workflow commands as what they say; a pipe or a file gets what the job wrote.\n\n" +
		usage("nimbus logs last", "nimbus logs -f last", "nimbus logs --tail 50 last", "nimbus logs -f --tail 50 last", "nimbus logs --raw last > job.log", "nimbus logs last --json | jq -r 'select(.stream == \"stderr\") | .text'")
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
	p := newLogPrinter(a)
	switch {
	case c.Raw:
		lines, end := p.out.Lines(a.Out)
		out := &countingWriter{to: lines}
		damaged, err := cl.RawLog(ctx, j.ID, out)
		if err = errors.Join(err, end()); err != nil {
			return err
		}
		if p.damaged, p.shown = damaged, out.n > 0; p.shown && damaged == 0 {
			return nil
		}
	case c.Follow:
		for e, err := range cl.FollowLogTail(ctx, j.ID, c.Tail) {
			if err != nil {
				return err
			}
			if err := p.event(e); err != nil {
				return err
			}
		}
		return p.verdict(nimbus.Job{}) // its last event told the rest
	case c.Tail > 0:
		err = p.all(cl.LogTail(ctx, j.ID, c.Tail))
		j.LogComplete = true // nobody who asks for the end alone takes it for all
	default:
		err = p.all(cl.Log(ctx, j.ID, 1))
	}
	if err != nil {
		return err
	}
	return p.verdict(j)
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

	shown   bool  // a line, or that some are damaged
	last    int64 // the highest line of those
	damaged int64 // how many lines can't be read
	gone    int64 // how many at its end are no longer there
}

func newLogPrinter(a *app) *logPrinter {
	out := terminal.ScreenOf(a.Out)
	e := json.NewEncoder(out.JSON(a.Out))
	e.SetEscapeHTML(false)
	return &logPrinter{
		app: a, json: e, wrap: func(l lineView) any { return l }, out: out, err: terminal.ScreenOf(a.Err),
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
	case client.LogDamaged:
		p.damage(e.Err)
	case client.LogComplete:
		switch p.gone = e.Gone; {
		case e.Gone > 0 && !p.shown: // the verdict says so
		case e.Gone > 0:
			p.app.info("%s", p.app.errStyle.Warn("the end of the log is missing: the server has it no longer"))
		case !e.Whole:
			p.app.info("%s", p.app.errStyle.Warn("the end of the log is missing: it was lost with its host"))
		}
	}
	return nil
}

// damage tells of lines that can't be read, in their place.
func (p *logPrinter) damage(err error) {
	var lines *client.DamagedLinesError
	if errors.As(err, &lines) {
		p.shown, p.last = true, lines.Last
		p.damaged += lines.Last - lines.First + 1
		p.app.info("%s", p.app.errStyle.Warn(err.Error()))
	}
}

// all shows lines, and goes on behind those that can't be read.
func (p *logPrinter) all(lines iter.Seq2[nimbus.Line, error]) error {
	for l, err := range lines {
		var damaged *client.DamagedLinesError
		switch {
		case errors.As(err, &damaged):
			p.damage(err)
		case err != nil:
			return err
		default:
			if err := p.line(l); err != nil {
				return err
			}
		}
	}
	return nil
}

// verdict is what is said of a log once all that there is of it was shown.
func (p *logPrinter) verdict(j nimbus.Job) error {
	over := j.State == nimbus.StateFinished
	switch {
	case p.gone > 0 && !p.shown:
		return noLonger(p.gone)
	case over && j.LogLines > 0 && !p.shown:
		return noLonger(j.LogLines)
	case p.damaged > 0:
		return nimbus.Errorf(nimbus.CodeInternal, "%s of the log can't be read", terminal.Count(int(p.damaged), "line")).
			WithHint("the server's log says why")
	case over && p.last > 0 && p.last < j.LogLines:
		p.app.info("%s", p.app.errStyle.Warn("the end of the log is missing: the server has it no longer"))
	case j.ID != "" && !j.LogComplete:
		p.app.info("%s", p.app.errStyle.Quiet("this is not all yet: nimbus logs -f "+j.ID))
	}
	return nil
}

// noLonger says that a log, of which the job's books know, is not there: that is not a
// job which wrote nothing.
func noLonger(lines int64) error {
	return nimbus.Errorf(nimbus.CodeNotFound, "the log of this job is no longer kept; it had %s", terminal.Count(int(lines), "line")).
		WithHint("nimbus logs retention says how long logs are kept; nimbus logs import brings exported ones back")
}

// countingWriter counts what passes.
type countingWriter struct {
	to io.Writer
	n  int64
}

func (w *countingWriter) Write(b []byte) (int, error) {
	n, err := w.to.Write(b)
	w.n += int64(n)
	return n, err
}

// line fails when stdout is gone.
func (p *logPrinter) line(l nimbus.Line) error {
	p.shown, p.last = true, l.Seq
	if p.app.root.JSON {
		return p.json.Encode(p.wrap(lineView(l)))
	}
	var err error
	switch l.Stream {
	case nimbus.StreamStdout:
		_, err = fmt.Fprintln(p.app.Out, p.out.Line(l.Text))
	case nimbus.StreamStderr:
		fmt.Fprintln(p.app.Err, p.err.Line(l.Text))
	case nimbus.StreamStep:
		p.app.info("%s", p.app.errStyle.Step("▸ "+terminal.OneLine(l.Text)))
	case nimbus.StreamSystem:
		p.app.info("%s", p.app.errStyle.Quiet(terminal.OneLine(l.Text)))
	}
	return err
}
