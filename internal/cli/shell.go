package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
)

type shellCmd struct {
	Open       shellOpenCmd       `cmd:"" default:"withargs" help:"Open a terminal in a job's sandbox."`
	Recordings shellRecordingsCmd `cmd:"" help:"Show the shells that were opened in a job, or write the recording of one."`
}

type shellOpenCmd struct {
	ID      string        `arg:"" complete:"jobs" help:"The job's id, or 'last'."`
	Command []string      `arg:"" optional:"" help:"What to run there, after --. Default: a shell."`
	For     time.Duration `within:"1s..1h" default:"1h" help:"How long it may be open, at most 1h." placeholder:"DURATION"`
	TTY     bool          `name:"tty" default:"true" negatable:"" help:"Make a terminal there where this side is one."`
}

func (*shellOpenCmd) Help() string {
	return `The terminal runs beside the job, as its user, in its directory and with its environment. It takes the role operator. A job has a sandbox while it runs, and one that was submitted with --hold for a while after its command has failed.
What the terminal shows is recorded with the job; what is typed is not. Closing it never ends the job. When nothing is heard any more, Enter ~ . leaves at once.
Without a terminal on this side, stdin, stdout, stderr, Ctrl-C and the exit code are passed on as they are. 255 means that it ended otherwise.
With --json nothing is a terminal, and output comes as {"event":"output","stream":…,"text":…}; the last line is {"event":"end",…}.

` + usage(
		"nimbus shell last",
		"nimbus shell last -- ps aux",
		"nimbus shell last -- tar c build | tar x",
		"nimbus shell --for 10m job_01jd8w6j3m5y2x4k7q9r1t3v5z -- bash -l",
	)
}

// Times of a shell on this side.
const (
	// shellPatience is how long the server may be away: no longer than it keeps a
	// shell whose user is silent.
	shellPatience = 40 * time.Second
	// shellPace is the least time between two calls for output that came: a flood
	// comes in fewer, larger pieces.
	shellPace = 15 * time.Millisecond
	// leaveTimeout bounds the closing of a shell.
	leaveTimeout = 5 * time.Second

	inputPiece = 32 << 10
	inputBatch = 128 << 10
	inputQueue = 8
)

// exitNoCode is the exit code where the shell's process told none.
const exitNoCode = 255

func (c *shellOpenCmd) Run(ctx context.Context, a *app) error {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	j, err := findJob(ctx, cl, c.ID)
	if err != nil {
		return err
	}
	s := &openShell{app: a, client: cl, input: make(chan client.ShellInput, inputQueue)}
	spec := nimbus.ShellSpec{Command: c.Command}
	if c.TTY && !a.root.JSON {
		s.findTerminal(&spec)
	}
	if err := spec.Check(); err != nil {
		return badUsage(err)
	}
	if s.shell, err = cl.OpenShell(ctx, j.ID, spec, c.For); err != nil {
		return err
	}
	if s.terminal {
		a.info("%s", a.errStyle.Quiet(fmt.Sprintf("%s in %s, recorded, until %s at the latest", s.shell.ID, j.ID, s.shell.EndsAt.Local().Format("15:04"))))
	}
	return s.run(ctx)
}

// openShell is a shell on this side.
type openShell struct {
	app      *app
	client   *client.Client
	shell    nimbus.Shell
	terminal bool // stdin and stdout are one
	input    chan client.ShellInput
}

// findTerminal has the shell have a terminal where this side is one.
func (s *openShell) findTerminal(spec *nimbus.ShellSpec) {
	out, ok := s.app.Out.(*os.File)
	if !ok || !term.IsTerminal(int(os.Stdin.Fd())) || !term.IsTerminal(int(out.Fd())) {
		return
	}
	s.terminal, spec.Terminal, spec.Term = true, s.window(), os.Getenv("TERM")
}

// window is the size of this terminal, within what one can be.
func (s *openShell) window() nimbus.Window {
	columns, rows, err := term.GetSize(int(os.Stdin.Fd()))
	if err != nil || columns < 1 || rows < 1 {
		columns, rows = 80, 24 // one that does not tell
	}
	return nimbus.Window{Rows: min(rows, nimbus.MaxWindow), Columns: min(columns, nimbus.MaxWindow)}
}

// errLeft ends a shell that its user leaves.
var errLeft = errors.New("left")

// run passes everything on until the shell has ended, and gives this terminal
// back as it was.
func (s *openShell) run(ctx context.Context) error {
	if s.terminal {
		before, err := term.MakeRaw(int(os.Stdin.Fd()))
		if err != nil {
			return fmt.Errorf("take the terminal: %w", err)
		}
		defer func() { _ = term.Restore(int(os.Stdin.Fd()), before) }() // it is gone: nothing to give back
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go s.readInput(cancel) // ends with the process: nothing else ends a read of stdin
	g, ctx := errgroup.WithContext(ctx)
	ended, end := context.WithCancel(ctx)
	var how *nimbus.ShellEnd
	g.Go(func() error {
		defer end()
		var err error
		how, err = s.receive(ctx)
		return err
	})
	g.Go(func() error { return s.send(ended) })
	g.Go(func() error { s.watchSignals(ended, cancel); return nil })
	err := g.Wait()
	if how == nil {
		s.leave(ctx)
		if errors.Is(context.Cause(ctx), errLeft) {
			return &exitError{code: exitNoCode}
		}
		return err
	}
	return s.verdict(*how)
}

// leave closes the shell; the job goes on.
func (s *openShell) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer cancel()
	_ = s.client.CloseShell(ctx, s.shell.ID) // it ends by itself when nobody asks
}

// receive shows what comes until the end.
func (s *openShell) receive(ctx context.Context) (*nimbus.ShellEnd, error) {
	answered := time.Now()
	for after := int64(0); ; {
		asked := time.Now()
		news, err := s.client.ReceiveShell(ctx, s.shell.ID, after)
		if err != nil {
			if !comesBack(err) || time.Since(answered) > shellPatience || !pause(ctx, time.Second) {
				return nil, err
			}
			continue
		}
		answered, after = time.Now(), news.Seq
		for _, out := range news.Output {
			if err := s.show(out); err != nil {
				return nil, fmt.Errorf("show output: %w", err)
			}
		}
		if news.End != nil {
			return news.End, nil
		}
		if left := shellPace - time.Since(asked); left > 0 && !pause(ctx, left) {
			return nil, context.Cause(ctx)
		}
	}
}

// comesBack tells whether the same call may succeed a little later.
func comesBack(err error) bool {
	switch nimbus.ErrorCode(err) {
	case nimbus.CodeUnavailable, nimbus.CodeRateLimited,
		nimbus.CodeCancelled: // by a server that stopped while it answered
		return true
	}
	return false
}

// pause returns false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// shellEvent is what --json writes of a shell.
type shellEvent struct {
	Event  string        `json:"event"` // "output" or "end"
	Stream nimbus.Stream `json:"stream,omitempty"`
	Text   string        `json:"text,omitempty"`
	Shell  string        `json:"shell_id,omitempty"`
	Code   *int          `json:"exit_code,omitempty"`
	Signal string        `json:"signal,omitempty"`
	Reason string        `json:"reason,omitempty"`
	Said   string        `json:"message,omitempty"`
}

func (s *openShell) show(out client.ShellOutput) error {
	if s.app.root.JSON {
		return s.app.printJSON(shellEvent{Event: "output", Stream: out.Stream, Text: string(out.Data)})
	}
	to := s.app.Out
	if out.Stream == nimbus.StreamStderr {
		to = s.app.Err
	}
	_, err := to.Write(out.Data)
	return err
}

// readInput reads stdin into the queue, in which it waits to be sent.
func (s *openShell) readInput(leave context.CancelCauseFunc) {
	escape := escapes{on: s.terminal}
	buf := make([]byte, inputPiece)
	for {
		n, err := os.Stdin.Read(buf)
		if n > 0 {
			data, left := escape.filter(append([]byte(nil), buf[:n]...))
			if len(data) > 0 {
				s.input <- client.ShellInput{Data: data}
			}
			if left {
				leave(errLeft)
				return
			}
		}
		if err != nil {
			s.input <- client.ShellInput{End: true}
			return
		}
	}
}

// send sends what is queued, all that is there at once.
func (s *openShell) send(ctx context.Context) error {
	for seq := int64(1); ; seq++ {
		var batch []client.ShellInput
		select {
		case in := <-s.input:
			batch = append(batch, in)
		case <-ctx.Done():
			return nil
		}
		for size := len(batch[0].Data); size < inputBatch; {
			select {
			case in := <-s.input:
				batch, size = append(batch, in), size+len(in.Data)
				continue
			default:
			}
			break
		}
		for {
			err := s.client.SendShell(ctx, s.shell.ID, seq, batch)
			if err == nil {
				break
			}
			if !comesBack(err) || !pause(ctx, time.Second/2) {
				return nil // whoever receives hears why, and ends both
			}
		}
	}
}

// watchSignals passes on the terminal's size, and without a terminal what is
// meant for the command. A second Ctrl-C leaves.
func (s *openShell) watchSignals(ctx context.Context, leave context.CancelCauseFunc) {
	signals := make(chan os.Signal, 4)
	if s.terminal {
		signal.Notify(signals, unix.SIGWINCH)
	} else {
		signal.Notify(signals, unix.SIGINT, unix.SIGQUIT)
	}
	defer signal.Stop(signals)
	for interrupts := 0; ; {
		var sig os.Signal
		select {
		case sig = <-signals:
		case <-ctx.Done():
			return
		}
		in := client.ShellInput{Window: s.window()}
		if n, ok := sig.(unix.Signal); ok && n != unix.SIGWINCH {
			if interrupts++; interrupts > 1 {
				leave(errLeft)
				return
			}
			in = client.ShellInput{Signal: unix.SignalName(n)}
		}
		select {
		case s.input <- in:
		case <-ctx.Done():
			return
		}
	}
}

// verdict turns the end of the shell into that of this command.
func (s *openShell) verdict(how nimbus.ShellEnd) error {
	if s.app.root.JSON {
		event := shellEvent{Event: "end", Shell: s.shell.ID, Code: how.Code, Signal: how.Signal, Reason: string(how.Reason), Said: how.Message}
		if err := s.app.printJSON(event); err != nil {
			return err
		}
	}
	switch {
	case how.Code != nil && *how.Code == 0:
		return nil
	case how.Code != nil:
		return &exitError{code: *how.Code}
	case how.Signal != "":
		return &exitError{code: ExitSignal + int(unix.SignalNum(how.Signal))}
	}
	err := nimbus.Errorf(nimbus.CodeConflict, "the shell ended: %s", terminal.OneLine(how.Message))
	if how.Reason == nimbus.ShellJobEnded {
		err = err.WithHint("nimbus job %s", s.shell.JobID)
	}
	return &exitError{code: exitNoCode, err: err}
}

// escapes finds the keys that leave a shell which does not answer: a tilde and a
// dot at the beginning of a line, as ssh has them. Two tildes are one.
type escapes struct {
	on    bool
	typed bool // something was typed in this line
	tilde bool // and it was the tilde, which is kept back
}

func (e *escapes) filter(typed []byte) (data []byte, leave bool) {
	if !e.on {
		return typed, false
	}
	for _, b := range typed {
		switch {
		case e.tilde && b == '.':
			return data, true
		case e.tilde:
			e.tilde = false
			data = append(data, '~')
			if b == '~' {
				continue
			}
		case !e.typed && b == '~':
			e.typed, e.tilde = true, true
			continue
		}
		data = append(data, b)
		e.typed = b != '\r' && b != '\n'
	}
	return data, false
}

type shellRecordingsCmd struct {
	ID    string `arg:"" complete:"jobs" help:"The job's id, or 'last'."`
	Shell string `arg:"" optional:"" help:"Id of the shell whose recording to write to stdout, as an asciicast."`
}

func (*shellRecordingsCmd) Help() string {
	return "A recording has what the terminal showed, with the job's secrets masked as in its log. Any player of asciicasts plays it, and so does the job's page.\n\n" +
		usage("nimbus shell recordings last", "nimbus shell recordings last shell_01jd8w6j3m5y2x4k7q9r1t3v5z >shell.cast && asciinema play shell.cast")
}

func (c *shellRecordingsCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	j, err := findJob(ctx, cl, c.ID)
	if err != nil {
		return err
	}
	if c.Shell != "" {
		return cl.Recording(ctx, j.ID, c.Shell, a.Out)
	}
	list, err := cl.Shells(ctx, j.ID)
	if err != nil {
		return err
	}
	if a.root.JSON {
		v := struct {
			Shells []shellView `json:"shells"`
		}{[]shellView{}}
		for _, s := range list {
			v.Shells = append(v.Shells, viewShell(s))
		}
		return a.printJSON(v)
	}
	if len(list) == 0 {
		a.info("no shell was opened in %s", j.ID)
		return nil
	}
	var rows []string
	for _, s := range list {
		ended := string(s.State)
		if s.State == nimbus.ShellEnded {
			ended = string(s.End.Reason)
			if s.End.Code != nil {
				ended = fmt.Sprintf("exit code %d", *s.End.Code)
			}
		}
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%s\t%d", s.ID, s.OpenedAt.Format("2006-01-02 15:04:05"), terminal.OneLine(s.Actor), ended, s.RecordedLines))
	}
	return a.table("SHELL\tOPENED (UTC)\tBY\tEND\tRECORDED", rows)
}

// shellView is a shell as --json writes it.
type shellView struct {
	ID       string     `json:"id"`
	State    string     `json:"state"`
	Actor    string     `json:"actor"`
	Command  []string   `json:"command,omitempty"`
	OpenedAt time.Time  `json:"opened_at"`
	EndedAt  *time.Time `json:"ended_at,omitempty"`
	Reason   string     `json:"reason,omitempty"`
	Message  string     `json:"message,omitempty"`
	ExitCode *int       `json:"exit_code,omitempty"`
	Recorded int64      `json:"recorded_lines"`
}

func viewShell(s nimbus.Shell) shellView {
	v := shellView{ID: s.ID, State: string(s.State), Actor: s.Actor, Command: s.Spec.Command, OpenedAt: s.OpenedAt,
		Reason: string(s.End.Reason), Message: s.End.Message, ExitCode: s.End.Code, Recorded: s.RecordedLines}
	if !s.EndedAt.IsZero() {
		v.EndedAt = &s.EndedAt
	}
	return v
}
