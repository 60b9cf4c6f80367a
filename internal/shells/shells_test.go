package shells_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/bus"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/logs/segment"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/shells"
	"github.com/nimbus-ci/nimbus/internal/store"
	"github.com/nimbus-ci/nimbus/internal/store/storetest"
)

// world is a job that runs, and two replicas whose buses don't reach each other.
type world struct {
	t          *testing.T
	db         *store.Store
	dsn        string
	logs       *segment.Store
	jobs       *scheduler.Service
	near, far  *shells.Service // the user's, and the host's
	host       string
	job        nimbus.Job
	lease      nimbus.Lease
	alice, bob nimbus.Principal
}

var engines = map[string]func(*testing.T) string{
	"sqlite":   func(t *testing.T) string { return "sqlite:" + filepath.Join(t.TempDir(), "nimbus.db") },
	"postgres": func(t *testing.T) string { return storetest.Postgres(t) },
}

func onBoth(t *testing.T, test func(*world)) {
	t.Helper()
	for name, dsn := range engines {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(newWorld(t, dsn(t)))
		})
	}
}

func newWorld(t *testing.T, dsn string) *world {
	t.Helper()
	w := &world{t: t, dsn: dsn}
	var err error
	w.db, err = store.Open(t.Context(), store.Config{DSN: dsn})
	w.must(err)
	t.Cleanup(func() { w.db.Close() })
	w.logs, err = segment.Open(t.TempDir(), 1<<30)
	w.must(err)
	t.Cleanup(func() { w.logs.Close() })
	keyring, err := identity.OpenKeyring(filepath.Join(t.TempDir(), "master.key"))
	w.must(err)
	log := slog.New(slog.DiscardHandler)
	replica := func() *shells.Service {
		return shells.New(shells.Config{Store: w.db, Sealer: keyring, Logs: w.logs, Bus: bus.NewInProcess(), Look: 10 * time.Millisecond, Log: log})
	}
	w.near, w.far = replica(), replica()
	w.jobs = scheduler.New(scheduler.Config{AllowTrustedLocal: true}, w.db, bus.NewInProcess(), nil, identity.New(w.db, nimbus.SystemClock{}), log)
	w.alice = nimbus.Principal{Kind: nimbus.PrincipalUser, Subject: "alice", OrgID: nimbus.DefaultOrgID}
	w.bob = nimbus.Principal{Kind: nimbus.PrincipalUser, Subject: "bob", OrgID: nimbus.DefaultOrgID}
	w.host = w.register(true)
	w.job, w.lease = w.run(w.host)
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) register(shells bool) string {
	w.t.Helper()
	h, err := w.jobs.RegisterHost(w.t.Context(), "h", "test", nimbus.Inventory{Arch: "amd64", CPUs: 8, MemoryMiB: 8192, Sandboxes: 8, Shells: shells,
		Executors: []nimbus.ExecutorStatus{{Name: nimbus.ExecutorLocal, Available: true}}})
	w.must(err)
	return h.ID
}

// run has a job run on a host.
func (w *world) run(host string) (nimbus.Job, nimbus.Lease) {
	w.t.Helper()
	ctx := w.t.Context()
	j, err := w.jobs.Submit(ctx, nimbus.Principal{Kind: nimbus.PrincipalAdmin, OrgID: nimbus.DefaultOrgID}, scheduler.Submission{
		Class: nimbus.Class{Executor: nimbus.ExecutorLocal}, Spec: nimbus.Spec{Command: []string{"false"}, Hold: time.Hour}})
	w.must(err)
	for range 20 {
		work, err := w.jobs.Poll(ctx, host, nimbus.Capacity{CPUs: 8, MemoryMiB: 8192, Sandboxes: 4}, time.Second)
		w.must(err)
		for _, o := range work.Offers {
			_, err := w.jobs.Accept(ctx, host, o.Lease)
			w.must(err)
			w.must(w.jobs.ReportPhase(ctx, host, o.Lease, nimbus.PhaseStarted, nimbus.Start{}))
			return j, o.Lease
		}
	}
	w.t.Fatal("no job was offered")
	return j, nimbus.Lease{}
}

func (w *world) open() nimbus.Shell {
	w.t.Helper()
	sh, err := w.near.Open(w.t.Context(), w.alice, nimbus.DefaultOrgID, w.job.ID, "192.0.2.7", nimbus.ShellSpec{Terminal: nimbus.Window{Rows: 24, Columns: 80}}, 0)
	w.must(err)
	return sh
}

// opened is a shell that its host came for.
func (w *world) opened() nimbus.Shell {
	w.t.Helper()
	sh := w.open()
	_, err := w.far.Attach(w.t.Context(), w.host, w.lease, sh.ID)
	w.must(err)
	return sh
}

func (w *world) typed(sh nimbus.Shell, seq int64, text string) error {
	return w.near.Send(w.t.Context(), w.alice, nimbus.DefaultOrgID, sh.ID, seq, []byte(text))
}

func (w *world) shown(sh nimbus.Shell, after int64, wait time.Duration) (shells.Received, error) {
	return w.near.Receive(w.t.Context(), w.alice, nimbus.DefaultOrgID, sh.ID, after, wait)
}

func (w *world) input(sh nimbus.Shell, after int64, wait time.Duration) (shells.Received, error) {
	return w.far.ReceiveInput(w.t.Context(), w.host, w.lease, sh.ID, after, wait)
}

func (w *world) says(sh nimbus.Shell, o shells.Output) error {
	return w.far.SendOutput(w.t.Context(), w.host, w.lease, sh.ID, o)
}

// count runs a query that answers a number, below all rooms.
func (w *world) count(query string) (n int) {
	w.t.Helper()
	driver, dsn := "pgx", w.dsn
	if path, ok := strings.CutPrefix(w.dsn, "sqlite:"); ok {
		driver, dsn = "sqlite", path+"?_pragma=busy_timeout(10000)"
	}
	db, err := sql.Open(driver, dsn)
	w.must(err)
	defer db.Close()
	w.must(db.QueryRowContext(w.t.Context(), query).Scan(&n))
	return n
}

func text(r shells.Received) string { return string(bytes.Join(r.Bodies, nil)) }

// TestBothSidesAtDifferentReplicas: everything passes once and in order, though
// calls are repeated as if their answers had been lost, and nothing stays.
func TestBothSidesAtDifferentReplicas(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		sh := w.opened()
		const lines = 40
		echoed := make(chan struct{})
		go func() { // the host echoes what comes, each call twice
			defer close(echoed)
			seq := int64(0)
			for seq < lines {
				r, err := w.input(sh, seq, 5*time.Second)
				if err != nil || r.End != nil {
					return
				}
				if again, _ := w.input(sh, seq, 0); text(again) != text(r) && !strings.HasPrefix(text(again), text(r)) {
					w.t.Errorf("asked again it is %q, not %q", text(again), text(r))
				}
				for _, body := range r.Bodies {
					seq++
					for range 2 {
						if err := w.says(sh, shells.Output{Seq: seq, Body: body}); err != nil {
							w.t.Errorf("echo batch %d: %v", seq, err)
						}
					}
				}
			}
		}()
		var want, got strings.Builder
		after := int64(0)
		for seq := int64(1); seq <= lines; seq++ {
			line := strings.Repeat("x", int(seq*seq)) + "\n"
			want.WriteString(line)
			for range 2 {
				w.must(w.typed(sh, seq, line))
			}
			if seq%5 == 0 {
				r, err := w.shown(sh, after, time.Second)
				w.must(err)
				after = r.Seq
				got.WriteString(text(r))
			}
		}
		for got.Len() < want.Len() {
			r, err := w.shown(sh, after, 5*time.Second)
			w.must(err)
			after = r.Seq
			got.WriteString(text(r))
		}
		if got.String() != want.String() {
			t.Errorf("%d bytes came of %d", got.Len(), want.Len())
		}
		<-echoed // also each call's second time: behind the end it would be refused
		code := 3
		w.must(w.says(sh, shells.Output{Seq: lines + 1, Body: []byte("bye"), End: &nimbus.ShellEnd{Code: &code, Reason: nimbus.ShellExited}}))
		r, err := w.shown(sh, after, time.Second)
		w.must(err)
		if text(r) != "bye" || r.End != nil {
			t.Errorf("before the end comes %q, %v", text(r), r.End)
		}
		if r, err = w.shown(sh, r.Seq, time.Second); err != nil || r.End == nil || r.End.Code == nil || *r.End.Code != 3 {
			t.Errorf("the end is %+v, %v", r.End, err)
		}
		if n := w.count("SELECT COUNT(*) FROM shell_batches"); n != 0 {
			t.Errorf("%d batches stay", n)
		}
	})
}

// TestAShellIsOfWhoOpenedIt, and of the host of its job.
func TestAShellIsOfWhoOpenedIt(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx, sh, org := t.Context(), w.opened(), nimbus.DefaultOrgID
		other := w.register(true)
		otherJob, otherLease := w.run(other)
		stale := nimbus.Lease{AttemptID: w.lease.AttemptID, Fence: w.lease.Fence - 1}
		guessed := nimbus.NewID(nimbus.PrefixShell, time.Now())
		receive := func(p nimbus.Principal, org, id string) error {
			_, err := w.near.Receive(ctx, p, org, id, 0, 0)
			return err
		}
		attach := func(host string, l nimbus.Lease, id string) error {
			_, err := w.far.Attach(ctx, host, l, id)
			return err
		}
		input := func(host string, l nimbus.Lease, id string) error {
			_, err := w.far.ReceiveInput(ctx, host, l, id, 0, 0)
			return err
		}
		for name, c := range map[string]struct {
			err  error
			want nimbus.Code
		}{
			"somebody else of the org reads":  {receive(w.bob, org, sh.ID), nimbus.CodeNotFound},
			"somebody else types":             {w.near.Send(ctx, w.bob, org, sh.ID, 1, []byte("rm")), nimbus.CodeNotFound},
			"somebody else closes":            {w.near.Close(ctx, w.bob, org, sh.ID), nimbus.CodeNotFound},
			"the same name in another org":    {receive(w.alice, "org_00000000000000000000000001", sh.ID), nimbus.CodeNotFound},
			"a guessed id":                    {receive(w.alice, org, guessed), nimbus.CodeNotFound},
			"another host takes it":           {attach(other, otherLease, sh.ID), nimbus.CodeNotFound},
			"another host with the lease":     {attach(other, w.lease, sh.ID), nimbus.CodeNotFound},
			"another host replays the stream": {input(other, w.lease, sh.ID), nimbus.CodeNotFound},
			"another host speaks":             {w.far.SendOutput(ctx, other, w.lease, sh.ID, shells.Output{Seq: 1, Body: []byte("x")}), nimbus.CodeNotFound},
			"its host with another lease":     {input(w.host, otherLease, sh.ID), nimbus.CodeNotFound},
			"its host with an older fence":    {input(w.host, stale, sh.ID), nimbus.CodeFenced},
			"its host takes it again":         {attach(w.host, w.lease, sh.ID), ""},
			"a recording of another job's":    {recorded(w, otherJob.ID, sh.ID), nimbus.CodeNotFound},
			"a recording that is not there":   {recorded(w, w.job.ID, sh.ID), nimbus.CodeNotFound},
			"a batch that is not the next":    {w.typed(sh, 2, "x"), nimbus.CodeConflict},
			"a batch that can't be":           {w.typed(sh, 0, "x"), nimbus.CodeConflict},
			"a batch that is too large":       {w.typed(sh, 1, strings.Repeat("x", shells.MaxBatch+1)), nimbus.CodeTooLarge},
			"who opened it":                   {receive(w.alice, org, sh.ID), ""},
			"its host":                        {input(w.host, w.lease, sh.ID), ""},
		} {
			if code := nimbus.ErrorCode(c.err); code != c.want {
				t.Errorf("%s: %q (%v), want %q", name, code, c.err, c.want)
			}
		}
	})
}

func recorded(w *world, jobID, shellID string) error {
	_, err := w.near.Recorded(w.t.Context(), nimbus.DefaultOrgID, jobID, shellID)
	return err
}

// TestWhatCantBeOpened has a reason, and where there is one a next step.
func TestWhatCantBeOpened(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx, terminal := t.Context(), nimbus.ShellSpec{Terminal: nimbus.Window{Rows: 24, Columns: 80}}
		old := w.register(false)
		oldJob, _ := w.run(old)
		done, lease := w.run(w.host)
		w.must(w.jobs.Finish(ctx, w.host, lease, nimbus.Outcome{Result: nimbus.ResultSuccess}))
		for name, c := range map[string]struct {
			job  string
			spec nimbus.ShellSpec
			long time.Duration
			want nimbus.Code
		}{
			"a terminal of a million rows":      {w.job.ID, nimbus.ShellSpec{Terminal: nimbus.Window{Rows: 1 << 20, Columns: 80}}, 0, nimbus.CodeInvalid},
			"a terminal of nothing":             {w.job.ID, nimbus.ShellSpec{Terminal: nimbus.Window{Rows: -1, Columns: -1}}, 0, nimbus.CodeInvalid},
			"nothing at all":                    {w.job.ID, nimbus.ShellSpec{}, 0, nimbus.CodeInvalid},
			"a command of a megabyte":           {w.job.ID, nimbus.ShellSpec{Command: []string{strings.Repeat("x", 1<<20)}}, 0, nimbus.CodeTooLarge},
			"a kind of terminal that is a line": {w.job.ID, nimbus.ShellSpec{Terminal: nimbus.Window{Rows: 24, Columns: 80}, Term: "a\nb"}, 0, nimbus.CodeInvalid},
			"for longer than it may":            {w.job.ID, terminal, nimbus.MaxShellFor + 1, nimbus.CodeInvalid},
			"a job that has ended":              {done.ID, terminal, 0, nimbus.CodeConflict},
			"a host that is too old":            {oldJob.ID, terminal, 0, nimbus.CodeUnsupported},
			"no job":                            {nimbus.NewID(nimbus.PrefixJob, time.Now()), terminal, 0, nimbus.CodeNotFound},
		} {
			_, err := w.near.Open(ctx, w.alice, nimbus.DefaultOrgID, c.job, "", c.spec, c.long)
			if nimbus.ErrorCode(err) != c.want {
				t.Errorf("%s: %v, want %s", name, err, c.want)
			}
			if (c.want == nimbus.CodeConflict || c.want == nimbus.CodeUnsupported) && nimbus.ErrorHint(err) == "" {
				t.Errorf("%s: no hint in %v", name, err)
			}
		}
		for range nimbus.MaxShellsPerJob {
			w.open()
		}
		_, err := w.near.Open(ctx, w.alice, nimbus.DefaultOrgID, w.job.ID, "", terminal, 0)
		if nimbus.ErrorCode(err) != nimbus.CodeRateLimited {
			t.Errorf("one shell too many: %v", err)
		}
	})
}

// TestEnds: each shell that may not go on has ended for both sides, with its
// reason, and the ledger has it.
func TestEnds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		waits bool // its host never came
		after time.Duration
		keep  string // who is heard of meanwhile
		do    func(*world, nimbus.Shell)
		want  nimbus.ShellReason
	}{
		"its time is over":      {after: nimbus.MaxShellFor + time.Second, keep: "busy", want: nimbus.ShellExpired},
		"nothing passes":        {after: nimbus.MaxShellIdle + time.Second, keep: "both", want: nimbus.ShellIdle},
		"its host never comes":  {waits: true, after: 21 * time.Second, want: nimbus.ShellHostGone},
		"its host is gone":      {after: 46 * time.Second, keep: "user", want: nimbus.ShellHostGone},
		"its user is gone":      {after: 46 * time.Second, keep: "host", want: nimbus.ShellUserGone},
		"its lease has expired": {after: nimbus.LeaseDuration + time.Second, keep: "no lease", want: nimbus.ShellJobEnded},
		"its user closes it": {do: func(w *world, sh nimbus.Shell) {
			w.must(w.near.Close(w.t.Context(), w.alice, nimbus.DefaultOrgID, sh.ID))
		}, want: nimbus.ShellClosed},
		"its agent starts anew": {do: func(w *world, _ nimbus.Shell) { w.must(w.far.HostStarted(w.t.Context(), w.host)) }, want: nimbus.ShellAgentStopped},
		"its job ends":          {do: (*world).finish, want: nimbus.ShellJobEnded},
		"its host says so": {do: func(w *world, sh nimbus.Shell) {
			w.must(w.says(sh, shells.Output{End: &nimbus.ShellEnd{Reason: "made up", Message: strings.Repeat("x", 10_000)}}))
		}, want: nimbus.ShellRefused},
		"its user has just hung up": {after: 11 * time.Second, keep: "host", do: (*world).hangUp, want: nimbus.ShellUserGone},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, engines["sqlite"](t))
			sh := w.open()
			if !c.waits {
				_, err := w.far.Attach(t.Context(), w.host, w.lease, sh.ID)
				w.must(err)
			}
			if c.do != nil {
				c.do(w, sh)
			}
			w.pass(sh, c.after, c.keep)
			w.sweep(sh)
			r, err := w.shown(sh, 0, 0)
			w.must(err)
			if r.End == nil || r.End.Reason != c.want || r.End.Message == "" || len(r.End.Message) > 600 {
				t.Fatalf("its user hears %+v, want %s", r.End, c.want)
			}
			if r, err := w.input(sh, 0, 0); err != nil || r.End == nil || r.End.Reason != c.want {
				t.Errorf("its host hears %+v, %v", r.End, err)
			}
			if err := w.typed(sh, 1, "x"); nimbus.ErrorCode(err) != nimbus.CodeConflict {
				t.Errorf("it can be typed into: %v", err)
			}
			if n := w.count("SELECT COUNT(*) FROM audit_outbox WHERE action IN ('shell.open', 'shell.end') AND target = '" + sh.ID + "'"); n != 2 {
				t.Errorf("%d entries tell of its beginning and its end", n)
			}
		})
	}
}

func (w *world) finish(nimbus.Shell) {
	w.must(w.jobs.Finish(w.t.Context(), w.host, w.lease, nimbus.Outcome{Result: nimbus.ResultSuccess}))
}

// hangUp breaks calls of the user's off, until one of them had begun by then.
func (w *world) hangUp(sh nimbus.Shell) {
	for range 100 {
		ctx, cancel := context.WithTimeout(w.t.Context(), 50*time.Millisecond)
		_, err := w.near.Receive(ctx, w.alice, nimbus.DefaultOrgID, sh.ID, 0, time.Minute)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			w.t.Fatal(err)
		}
		if w.count("SELECT COUNT(*) FROM shells WHERE user_seen_at < opened_at AND id = '"+sh.ID+"'") == 1 {
			return
		}
	}
	w.t.Fatal("nobody notes that the user hung up")
}

// pass lets time pass, while some are heard of: so much in all, of which what the
// calls take is a part.
func (w *world) pass(sh nimbus.Shell, long time.Duration, keep string) {
	w.t.Helper()
	seq, began := int64(0), time.Now()
	for passed := time.Duration(0); passed < long; {
		step := min(9*time.Second, long-passed)
		passed += step
		w.must(w.db.OffsetClock(w.t.Context(), max(passed-time.Since(began), 0)))
		if keep != "no lease" {
			_, err := w.jobs.Heartbeat(w.t.Context(), w.host, []nimbus.Lease{w.lease})
			w.must(err)
		}
		if keep == "busy" && passed < long-10*time.Second {
			seq++
			w.must(w.says(sh, shells.Output{Seq: seq, Body: []byte("x")}))
			_, err := w.shown(sh, seq, 0)
			w.must(err)
		}
		if keep == "both" || keep == "user" {
			_, err := w.shown(sh, 0, 0)
			w.must(err)
		}
		if keep == "both" || keep == "host" {
			_, err := w.input(sh, 0, 0)
			w.must(err)
		}
	}
}

// sweep lets the service look, until it has ended a shell. Nobody else is asked: who
// asks for one is heard of.
func (w *world) sweep(sh nimbus.Shell) {
	ctx, cancel := context.WithCancel(w.t.Context())
	swept := make(chan error, 1)
	go func() { swept <- w.far.Run(ctx, func() {}) }()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if w.count("SELECT COUNT(*) FROM shells WHERE state = 'ended' AND id = '"+sh.ID+"'") == 1 {
			break
		}
	}
	cancel()
	w.must(<-swept)
}

// TestASlowSideHoldsUpTheOther, and no more than so much waits in between.
func TestASlowSideHoldsUpTheOther(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		sh, piece := w.opened(), strings.Repeat("x", 200<<10)
		seq := int64(1)
		for late := time.Now().Add(30 * time.Second); seq < 100; {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			err := w.far.SendOutput(ctx, w.host, w.lease, sh.ID, shells.Output{Seq: seq, Body: []byte(piece)})
			cancel()
			switch {
			case err == nil:
				seq++
				continue
			case seq < 5 && time.Now().Before(late): // there is room: the machine is slow, and a call may be repeated
				continue
			}
			break
		}
		if seq < 5 || seq > 8 {
			t.Fatalf("it took %d batches of 200 KiB", seq-1)
		}
		sent := make(chan error, 1)
		go func() { sent <- w.says(sh, shells.Output{Seq: seq, Body: []byte(piece)}) }()
		r, err := w.shown(sh, 0, time.Second)
		w.must(err)
		if len(r.Bodies) > 2 {
			t.Errorf("one answer has %d batches", len(r.Bodies))
		}
		_, err = w.shown(sh, r.Seq, 0) // which frees them
		w.must(err)
		if err := <-sent; err != nil {
			t.Errorf("with room: %v", err)
		}
		// Many small ones meet the bound too.
		small := int64(1)
		for ; small < 5000; small++ {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			err := w.near.Send(ctx, w.alice, nimbus.DefaultOrgID, sh.ID, small, []byte("x"))
			cancel()
			if err != nil {
				break
			}
		}
		if small > 2100 {
			t.Errorf("%d batches of a byte lie there", small)
		}
	})
}

// TestWhatLiesInTheStoreIsSealed: passwords are typed into terminals.
func TestWhatLiesInTheStoreIsSealed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, engines["sqlite"](t))
	sh := w.opened()
	w.must(w.typed(sh, 1, "correct horse battery staple"))
	if n := w.count("SELECT COUNT(*) FROM shell_batches"); n != 1 {
		t.Fatalf("%d batches", n)
	}
	if n := w.count("SELECT COUNT(*) FROM shell_batches WHERE INSTR(body, CAST('horse' AS BLOB)) > 0"); n != 0 {
		t.Error("it can be read")
	}
}

// TestRecording is kept before what it shows is, and told with the shell.
func TestRecording(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		sh := w.opened()
		line := func(seq int64, text string) nimbus.Line {
			return nimbus.Line{Seq: seq, At: time.Now(), Stream: nimbus.StreamStdout, Text: text}
		}
		for range 2 {
			w.must(w.says(sh, shells.Output{Seq: 1, Body: []byte("x"), Recorded: []nimbus.Line{line(1, "head"), line(2, "event")}}))
		}
		w.must(w.says(sh, shells.Output{Recorded: []nimbus.Line{line(3, "last")}, End: &nimbus.ShellEnd{Reason: nimbus.ShellExited}}))
		got, err := w.near.Recorded(t.Context(), nimbus.DefaultOrgID, w.job.ID, sh.ID)
		w.must(err)
		lines, err := w.logs.Read(t.Context(), got.RecordingKey(), 1, 10)
		w.must(err)
		if got.RecordedLines != 3 || len(lines) != 3 || lines[2].Text != "last" {
			t.Errorf("%d lines are told, %d are there", got.RecordedLines, len(lines))
		}
		other, _ := w.run(w.host)
		if err := recorded(w, other.ID, sh.ID); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
			t.Errorf("it is found under another job: %v", err)
		}
		if _, err := w.near.Recorded(t.Context(), "org_00000000000000000000000001", w.job.ID, sh.ID); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
			t.Errorf("it is found in another org: %v", err)
		}
		list, err := w.near.List(t.Context(), nimbus.DefaultOrgID, w.job.ID)
		w.must(err)
		if len(list) != 1 || list[0].State != nimbus.ShellEnded || list[0].End.Reason != nimbus.ShellExited {
			t.Errorf("listed: %+v", list)
		}
	})
}

// TestAHostIsTold of a shell again and again, until it has come for it.
func TestAHostIsTold(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		sh := w.open()
		for range 2 {
			work, err := w.jobs.Poll(t.Context(), w.host, nimbus.Capacity{}, 0)
			w.must(err)
			if len(work.Shells) != 1 || work.Shells[0] != (scheduler.ShellCall{ShellID: sh.ID, AttemptID: w.lease.AttemptID}) {
				t.Fatalf("told %+v", work.Shells)
			}
		}
		_, err := w.far.Attach(t.Context(), w.host, w.lease, sh.ID)
		w.must(err)
		if work, err := w.jobs.Poll(t.Context(), w.host, nimbus.Capacity{}, 0); err != nil || len(work.Shells) != 0 {
			t.Errorf("told again: %+v, %v", work.Shells, err)
		}
	})
}

// TestAHeldJobHasShells, until it is given up.
func TestAHeldJobHasShells(t *testing.T) {
	t.Parallel()
	onBoth(t, func(w *world) {
		ctx, code := t.Context(), 1
		held, err := w.jobs.FinishHeld(ctx, w.host, w.lease, nimbus.Outcome{Result: nimbus.ResultFailure, ExitCode: &code})
		w.must(err)
		sh := w.opened()
		w.must(w.typed(sh, 1, "x"))
		j, err := w.jobs.Release(ctx, w.alice, nimbus.DefaultOrgID, w.job.ID)
		w.must(err)
		if !held || j.State != nimbus.StateFinished {
			t.Errorf("held %v, %s", held, j.State)
		}
		_, err = w.near.Open(ctx, w.alice, nimbus.DefaultOrgID, w.job.ID, "", sh.Spec, 0)
		if nimbus.ErrorCode(err) != nimbus.CodeConflict {
			t.Errorf("opened while it is given up: %v", err)
		}
	})
}
