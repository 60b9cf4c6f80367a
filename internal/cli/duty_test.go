package cli

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/api/gen/nimbus/v1/nimbusv1connect"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// books is a server that has one host with jobs on it.
type books struct {
	nimbusv1connect.UnimplementedHostServiceHandler
	nimbusv1connect.UnimplementedJobServiceHandler

	jobs      []nimbus.Job
	cancelled chan string
}

func (b *books) ListHostJobs(context.Context, *connect.Request[nimbusv1.ListHostJobsRequest]) (*connect.Response[nimbusv1.ListHostJobsResponse], error) {
	var all []*nimbusv1.HostJob
	for _, j := range b.jobs {
		all = append(all, wire.HostJob(nimbus.HostJob{HostID: j.HostID, JobID: j.ID}))
	}
	return connect.NewResponse(&nimbusv1.ListHostJobsResponse{Jobs: all}), nil
}

func (b *books) GetJob(_ context.Context, r *connect.Request[nimbusv1.GetJobRequest]) (*connect.Response[nimbusv1.GetJobResponse], error) {
	i := slices.IndexFunc(b.jobs, func(j nimbus.Job) bool { return j.ID == r.Msg.GetJobId() })
	if i < 0 {
		return nil, wire.Error(nimbus.Errorf(nimbus.CodeNotFound, "no such job"))
	}
	return connect.NewResponse(&nimbusv1.GetJobResponse{Job: wire.Job(b.jobs[i])}), nil
}

func (b *books) CancelJob(_ context.Context, r *connect.Request[nimbusv1.CancelJobRequest]) (*connect.Response[nimbusv1.CancelJobResponse], error) {
	b.cancelled <- r.Msg.GetJobId()
	return connect.NewResponse(&nimbusv1.CancelJobResponse{Job: wire.Job(nimbus.Job{ID: r.Msg.GetJobId(), State: nimbus.StateRunning})}), nil
}

func (b *books) serve(t *testing.T) *client.Client {
	t.Helper()
	b.cancelled = make(chan string, 1)
	mux := http.NewServeMux()
	mux.Handle(nimbusv1connect.NewHostServiceHandler(b))
	mux.Handle(nimbusv1connect.NewJobServiceHandler(b))
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	c, err := client.New(client.Config{Server: s.URL, Token: "nbs_x"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// TestWhatKeepsAHost: a job whose sandbox is held has ended, and is released, not
// cancelled. That it takes long is no server that can't be reached.
func TestWhatKeepsAHost(t *testing.T) {
	t.Parallel()
	on := func(id string, s nimbus.State) nimbus.Job { return nimbus.Job{ID: id, HostID: "host_1", State: s} }
	held, runs := on("job_held", nimbus.StateFinished), on("job_runs", nimbus.StateRunning)
	other := nimbus.Job{ID: "job_other", HostID: "host_2", State: nimbus.StateFinished}
	for name, c := range map[string]struct {
		jobs          []nimbus.Job
		running       int
		message, hint string
	}{
		"a job that runs": {[]nimbus.Job{runs, other}, 1, "the host still runs 1 job", "it stays cordoned: wait again, or cancel them; one that has ended but is held needs nimbus release"},
		"one that is held": {[]nimbus.Job{held, other}, 1, "the host still holds the sandbox of 1 job that ended",
			"it stays cordoned: wait again, or give the sandbox up: nimbus release job_held"},
		"both": {[]nimbus.Job{held, runs}, 2, "the host still runs 2 jobs",
			"it stays cordoned: wait again, or cancel them; the sandbox of 1 job that ended is held: nimbus release job_held"},
	} {
		b := &books{jobs: c.jobs}
		err := stillRuns(t.Context(), b.serve(t), nimbus.Host{ID: "host_1", Running: c.running})
		if err.Error() != c.message || nimbus.ErrorHint(err) != c.hint || exitCode(err) != ExitFailure {
			t.Errorf("%s: %v; hint %q; exit code %d", name, err, nimbus.ErrorHint(err), exitCode(err))
		}
	}
}

// TestSignalsThatStopARun cancel its job, whichever it is, and the second one
// leaves at once.
func TestSignalsThatStopARun(t *testing.T) {
	t.Parallel()
	for s, want := range map[os.Signal]int{unix.SIGINT: 130, unix.SIGTERM: 143, unix.SIGHUP: 129} {
		b := &books{}
		interrupts := make(chan os.Signal, 2)
		f := &following{app: &app{root: &root{}, Streams: Streams{Err: t.Output()}}, client: b.serve(t), jobID: "job_1", interrupts: interrupts}
		interrupts <- s
		interrupts <- s
		if got := exitCode(f.watchInterrupts(t.Context())); got != want {
			t.Errorf("%v: exit code %d, want %d", s, got, want)
		}
		if got := <-b.cancelled; got != "job_1" {
			t.Errorf("%v cancelled %q", s, got)
		}
		f.interrupts = nil
		if err := f.hungUp(t.Context(), unix.EIO); err != unix.EIO { //nolint:errorlint // the same, and at once
			t.Errorf("afterwards: %v", err)
		}
	}
	// The terminal is gone before its signal is here.
	b := &books{}
	interrupts := make(chan os.Signal, 1)
	f := &following{client: b.serve(t), jobID: "job_2", interrupts: interrupts}
	interrupts <- unix.SIGHUP
	if _ = f.hungUp(t.Context(), unix.EIO); f.stopped != unix.SIGHUP || <-b.cancelled != "job_2" {
		t.Errorf("stopped by %v", f.stopped)
	}
}

func TestCancelledInWords(t *testing.T) {
	t.Parallel()
	for want, j := range map[string]nimbus.Job{
		"job_1 is being cancelled, its command is told to end: nimbus job job_1 tells when it has": {ID: "job_1", State: nimbus.StateRunning},
		"job_2 is cancelled": {ID: "job_2", State: nimbus.StateFinished, Result: nimbus.ResultCancelled},
		"job_3 is success":   {ID: "job_3", State: nimbus.StateFinished, Result: nimbus.ResultSuccess},
	} {
		if got := cancelWords(terminal.Style{}, j); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestUnknownExecutors are refused with the names that there are, before anything
// is started.
func TestUnknownExecutors(t *testing.T) {
	t.Setenv("NIMBUS_EXECUTORS", "microvm,bar")
	all := leaves(t)
	for _, command := range []string{"agent run", "agent install", "up"} {
		if got := all[command+" --executors"].EnumSlice(); !reflect.DeepEqual(got, nimbus.Executors()) {
			t.Errorf("nimbus %s knows %q", command, got)
		}
	}
	for line, named := range map[string]string{
		"agent run --executors foo": "foo", "agent run --executors microvm,docker,foo": "foo", "up --executors foo": "foo",
		"agent install --executors foo --dry-run": "foo", "agent run": "bar", "agent install --dry-run": "bar",
	} {
		start := time.Now()
		code, _, stderr := runIn(t, t.TempDir(), "http://127.0.0.1:1", strings.Fields(line))
		if code != ExitUsage || !strings.Contains(stderr, `"microvm","firecracker","docker","gpu","local" but got "`+named+`"`) {
			t.Errorf("%s: exit code %d after %v: %s", line, code, time.Since(start), stderr)
		}
	}
}
