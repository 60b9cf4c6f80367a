package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
)

type runCmd struct {
	Command []string `arg:"" help:"What to run, after --."`

	Name         string                `help:"What to call the job. Default: the command." placeholder:"NAME"`
	Image        string                `help:"Image of the sandbox." placeholder:"NAME"`
	Executor     string                `help:"What the sandbox is: microvm, firecracker, docker, gpu, or local, which is for trusted code only. Default: the best there is." enum:",microvm,firecracker,docker,gpu,local" default:"" placeholder:"NAME"`
	CPU          int                   `within:"1..512" help:"CPUs." placeholder:"N"`
	Memory       int                   `within:"1..4194304" help:"Memory in MiB." placeholder:"MIB"`
	Network      nimbus.NetworkProfile `help:"What the sandbox may reach: internet, which is public addresses only, names, which are those of --reach, or none. Default: internet." enum:",internet,names,none" default:"" placeholder:"PROFILE"`
	Reach        []string              `help:"A name that the sandbox may reach, and nothing else: example.com, or *.example.com for all below it; may be given more than once." placeholder:"NAME"`
	Label        []string              `help:"Ask for something as a workflow does in runs-on, like gpu-count:2 or cap:WORD; may be given more than once. Other flags count more." sep:"none" placeholder:"LABEL"`
	Meta         map[string]string     `help:"Keep this with the job, to find it by; may be given more than once." mapsep:"none" placeholder:"KEY=VALUE"`
	Env          map[string]string     `help:"Set a variable for the command; may be given more than once." placeholder:"NAME=VALUE" mapsep:"none"`
	Timeout      time.Duration         `within:"1s..120h" help:"How long the job may run. Default: 6h."`
	QueueTimeout time.Duration         `within:"1s..168h" help:"How long the job may wait for a host, at most 168h. Default: the server's, 24h."`
	Priority     int                   `within:"-10..10" help:"Before or behind the org's other waiting jobs: -10 to 10, higher is sooner." default:"0" placeholder:"N"`
	Hold         time.Duration         `within:"1s..4h" help:"Keep the sandbox for so long when the command fails, for nimbus shell; at most 4h. nimbus release gives it up sooner." placeholder:"DURATION"`
	Repeatable   bool                  `help:"Let the job be run again when its host is lost while it runs."`
	Files        bool                  `help:"Bring the files of this directory: in a git work tree what is tracked, and what is new but not ignored." default:"true" negatable:""`
	Detach       bool                  `help:"Print the job's id and leave it running." short:"d"`
}

func (*runCmd) Help() string {
	return `The job starts in a copy of this directory. Its output comes back live, and its exit code is the exit code of this command.
Ctrl-C cancels the job and waits for its end; a second one leaves at once. SIGTERM and SIGHUP do the same.
With --json, each line of output is an object {"event":"line","line":{…}}; the last one is {"event":"job","job":{…}}.

` + usage(
		"nimbus run -- make test",
		"nimbus run --cpu 4 --memory 8192 --timeout 30m -- ./build.sh",
		"nimbus run --no-files --network none -- sh -c 'echo hello; exit 3'",
		"nimbus run --label gpu-count:2 --label pytorch --meta model=llama-3 -- python train.py",
		"nimbus run --reach api.openai.com --reach '*.huggingface.co' -- npx promptfoo eval",
		"nimbus run --hold 30m -- make test || nimbus shell last",
		"nimbus run --priority 5 --queue-timeout 10m --timeout 1h -- make release",
		"nimbus run --detach --name nightly -- ./nightly && nimbus logs -f last",
	)
}

// patience is how long a job may be unschedulable until `run` gives it up: a
// host that starts at the same time is there by then.
const patience = 10 * time.Second

// settleTimeout is how long a job may take from its last line to its end.
const settleTimeout = 30 * time.Second

func (c *runCmd) Run(ctx context.Context, a *app) error {
	interrupts := make(chan os.Signal, 2)
	for _, s := range []os.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP} {
		if !signal.Ignored(s) { // as nohup has it
			signal.Notify(interrupts, s)
		}
	}
	defer signal.Stop(interrupts)

	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	var j nimbus.Job
	if err := untilInterrupt(ctx, interrupts, func(ctx context.Context) (err error) {
		j, err = c.submit(ctx, a, cl)
		return err
	}); err != nil {
		return err
	}
	if c.Detach {
		if a.root.JSON {
			return a.printJSON(runEvent{Event: "job", Job: new(viewJob(j))})
		}
		fmt.Fprintln(a.Out, j.ID)
		return nil
	}
	a.info("%s", a.errStyle.Quiet(j.ID+", "+j.Class.String()))
	f := &following{app: a, client: cl, jobID: j.ID, interrupts: interrupts}
	if j, err = f.wait(ctx); err != nil {
		return err
	}
	if a.root.JSON {
		if err := a.printJSON(runEvent{Event: "job", Job: new(viewJob(j))}); err != nil {
			return err
		}
	}
	return f.verdict(j)
}

// runEvent is what --json writes of a job that is followed.
type runEvent struct {
	Event string    `json:"event"` // "line" or "job"
	Line  *lineView `json:"line,omitempty"`
	Job   *jobView  `json:"job,omitempty"`
}

// untilInterrupt gives f up at the first Ctrl-C, or another signal to stop.
func untilInterrupt(ctx context.Context, interrupts <-chan os.Signal, f func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = f(ctx)
	}()
	select {
	case <-done:
		return err
	case s := <-interrupts:
		cancel()
		<-done
		return &exitError{code: exitOn(s), err: nimbus.Errorf(nimbus.CodeCancelled, "interrupted before the job was submitted")}
	}
}

// exitOn is the exit code of a run that a signal stopped.
func exitOn(s os.Signal) int {
	if number, ok := s.(syscall.Signal); ok {
		return ExitSignal + int(number)
	}
	return ExitInterrupted
}

func (c *runCmd) submit(ctx context.Context, a *app, cl *client.Client) (nimbus.Job, error) {
	reach, err := nimbus.NamesOf(c.Reach...)
	if err != nil {
		return nimbus.Job{}, err
	}
	s := client.Submission{
		Name: c.Name,
		Class: nimbus.Class{
			Executor: c.Executor, Image: c.Image, CPUs: c.CPU, MemoryMiB: c.Memory, Network: c.Network, Reach: reach,
		},
		Spec:           nimbus.Spec{Command: c.Command, Env: c.Env, Timeout: c.Timeout, QueueTimeout: c.QueueTimeout, Repeatable: c.Repeatable, Hold: c.Hold},
		Labels:         c.Label,
		Metadata:       c.Meta,
		Priority:       c.Priority,
		IdempotencyKey: rand.Text(),
	}
	if err := checkSubmission(s); err != nil {
		return nimbus.Job{}, badUsage(err)
	}
	if c.Files {
		id, err := upload(ctx, a, cl)
		if err != nil {
			return nimbus.Job{}, err
		}
		s.Spec.WorkspaceID = id
	}
	j, err := cl.Submit(ctx, s)
	if nimbus.ErrorCode(err) == nimbus.CodeUnavailable {
		j, err = cl.Submit(ctx, s) // the key makes it safe: the answer may be what was lost
	}
	return j, err
}

// checkSubmission refuses what the server would refuse, before files travel.
func checkSubmission(s client.Submission) error {
	if err := errors.Join(s.Spec.Check(), nimbus.CheckLabels(s.Labels)); err != nil {
		return err
	}
	asked, err := nimbus.ParseLabels(s.Labels)
	if err != nil {
		return nimbus.Errorf(nimbus.CodeInvalid, "%w", err)
	}
	if _, err := s.Class.Or(asked.Class).Complete(); err != nil {
		return err
	}
	both := maps.Clone(s.Metadata)
	if both == nil {
		both = map[string]string{}
	}
	maps.Copy(both, asked.Metadata)
	return nimbus.CheckMetadata(both)
}

// following is a job whose end is awaited.
type following struct {
	app        *app
	client     *client.Client
	jobID      string
	interrupts <-chan os.Signal

	stopped       os.Signal // what had the job cancelled: Ctrl-C, SIGTERM, SIGHUP
	unschedulable bool      // given up
}

// wait shows the log until the job has ended, and returns the job.
func (f *following) wait(ctx context.Context) (nimbus.Job, error) {
	g, ctx := errgroup.WithContext(ctx)
	ended, end := context.WithCancel(ctx)
	g.Go(func() error {
		defer end()
		return f.showLog(ctx)
	})
	g.Go(func() error { return f.watchInterrupts(ended) })
	g.Go(func() error { return f.watchState(ended) })
	if err := g.Wait(); err != nil {
		return nimbus.Job{}, f.hungUp(ctx, err)
	}
	return f.settled(ctx)
}

// hangUp is how long the signal of a terminal that is gone may come after the
// first error of writing to it.
const hangUp = 2 * time.Second

// hungUp cancels a job whose terminal went away before its signal came.
func (f *following) hungUp(ctx context.Context, err error) error {
	if f.stopped != nil || !errors.Is(err, unix.EIO) {
		return err
	}
	select {
	case f.stopped = <-f.interrupts:
		return errors.Join(err, f.cancel(ctx))
	case <-time.After(hangUp):
		return err
	}
}

func (f *following) showLog(ctx context.Context) error {
	p := newLogPrinter(f.app)
	p.wrap = func(l lineView) any { return runEvent{Event: "line", Line: &l} }
	for e, err := range f.client.FollowLog(ctx, f.jobID) {
		if err != nil {
			return err
		}
		if err := p.event(e); err != nil {
			return fmt.Errorf("show log: %w", err)
		}
	}
	return nil
}

// watchInterrupts cancels the job at the first Ctrl-C, or another signal to stop,
// and leaves at the second.
func (f *following) watchInterrupts(ctx context.Context) error {
	for {
		again := f.stopped != nil
		select {
		case <-ctx.Done():
			return nil
		case s := <-f.interrupts:
			f.stopped = s
		}
		if again {
			return &exitError{code: exitOn(f.stopped), err: nimbus.Errorf(nimbus.CodeCancelled, "left; the job may go on for a moment").
				WithHint("nimbus job %s", f.jobID)}
		}
		f.app.info("%s", f.app.errStyle.Warn("cancelling the job; Ctrl-C again leaves at once"))
		if err := f.cancel(ctx); err != nil {
			return fmt.Errorf("cancel the job: %w", err)
		}
	}
}

// watchState tells why nothing happens yet, and gives a job up that nobody can
// run. It ends once a host has it.
func (f *following) watchState(ctx context.Context) error {
	const interval = time.Second
	var since time.Time
	told, line := "", waitLine{app: f.app}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(interval):
		}
		j, place, err := f.client.JobInLine(ctx, f.jobID)
		switch {
		case err != nil:
			continue // the log's stream tells, and decides
		case j.State == nimbus.StateFinished || j.State.Live():
			return nil
		case j.State != nimbus.StateUnschedulable:
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
		}
		if j.Reason.Message != told {
			told = j.Reason.Message
			f.app.info("%s", f.app.errStyle.Warn("waiting: "+terminal.OneLine(told)))
		}
		line.tell(place, time.Now())
		if !since.IsZero() && time.Since(since) > patience {
			f.unschedulable = true
			return f.cancel(ctx)
		}
	}
}

// cancel cancels the job, also when its end comes faster than the answer.
func (f *following) cancel(ctx context.Context) error {
	_, err := f.client.Cancel(context.WithoutCancel(ctx), f.jobID)
	return err
}

// settled returns the job once it has ended, which its log may tell first.
func (f *following) settled(ctx context.Context) (nimbus.Job, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	for {
		j, err := f.client.Job(ctx, f.jobID)
		if err == nil && j.State == nimbus.StateFinished {
			return j, nil
		}
		select {
		case <-ctx.Done():
			return j, errors.Join(err, nimbus.Errorf(nimbus.CodeUnavailable, "the job's log ended, but not the job").WithHint("nimbus job %s", f.jobID))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// verdict turns the end of the job into that of this command.
func (f *following) verdict(j nimbus.Job) error {
	say := func(code int, format string, args ...any) error {
		return &exitError{code: code, err: nimbus.Errorf(nimbus.CodeConflict, format, args...).WithHint("nimbus job %s", j.ID)}
	}
	because := terminal.OneLine(j.Reason.Message)
	switch {
	case f.unschedulable:
		return say(ExitUnschedulable, "no host can run this job, it was cancelled: %s", because)
	case j.Result == nimbus.ResultSuccess:
		return nil
	case j.Result == nimbus.ResultCancelled && f.stopped != nil:
		return &exitError{code: exitOn(f.stopped), err: nimbus.Errorf(nimbus.CodeCancelled, "the job was cancelled")}
	case j.Result == nimbus.ResultCancelled:
		return say(ExitCancelled, "the job was cancelled: %s", because)
	case j.Result == nimbus.ResultTimedOut:
		return say(ExitTimedOut, "the job timed out: %s", because)
	case j.Result == nimbus.ResultLost:
		return say(ExitLost, "the job is lost: %s", because)
	case j.Reason.Code == nimbus.ReasonKilled:
		return say(ExitSignal+signalNumber(because), "%s", because)
	case j.ExitCode != nil && *j.ExitCode != 0 && j.Reason.Code == "":
		return &exitError{code: *j.ExitCode}
	}
	return say(ExitInfrastructure, "the job failed: %s", because)
}

// signalNumber finds the name of a signal in a sentence; without one it was
// SIGKILL, which the kernel sends of its own.
func signalNumber(sentence string) int {
	for word := range strings.FieldsSeq(sentence) {
		if s := unix.SignalNum(strings.Trim(word, ".,:;()")); s != 0 {
			return int(s)
		}
	}
	return int(unix.SIGKILL)
}
