package github_test

import (
	"context"
	"slices"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest"
)

// Times of a host; they are those of the real one.
const (
	deadline = 25 * time.Second // a sandbox that was not renewed for so long is killed
	patience = 10 * time.Minute // with GitHub, that registers no runner
)

// host is a machine with sandboxes that are nothing but what is known of them.
type host struct {
	w         *world
	id        string
	slots     int
	sandboxes []*sandbox

	runners, another int // that were made, and that got another job than the one they were made for
}

// sandbox is one attempt.
type sandbox struct {
	lease   nimbus.Lease
	jobID   string
	slots   int
	renewed time.Time
	ready   time.Time // when it has booted, and then when to ask for a runner again
	giveUp  time.Time
	runner  *githubtest.Connected
	work    int64 // GitHub's job that its runner has
	end     time.Time
	dies    bool            // at the end, instead of finishing its job
	outcome *nimbus.Outcome // once it has ended, until that was told
	gone    bool
}

// step does what a host does all the time.
func (h *host) step(ctx context.Context) {
	if !h.w.down.Load() {
		h.heartbeat(ctx)
		h.poll(ctx)
	}
	for _, b := range h.sandboxes {
		if h.w.now.Sub(b.renewed) > deadline && b.outcome == nil {
			h.kill(b, "its control plane was away")
			b.gone = true
		}
		h.work(ctx, b)
	}
	h.sandboxes = slices.DeleteFunc(h.sandboxes, func(b *sandbox) bool { return b.gone })
}

func (h *host) heartbeat(ctx context.Context) {
	var leases []nimbus.Lease
	for _, b := range h.sandboxes {
		leases = append(leases, b.lease)
	}
	answers, err := h.w.plane.Heartbeat(ctx, h.id, leases)
	h.w.must(err)
	for _, a := range answers {
		i := slices.IndexFunc(h.sandboxes, func(b *sandbox) bool { return b.lease.AttemptID == a.AttemptID })
		b := h.sandboxes[i]
		switch a.Verdict {
		case nimbus.VerdictKeep:
			b.renewed = h.w.now
		case nimbus.VerdictCancel:
			b.renewed = h.w.now
			if b.outcome == nil {
				h.kill(b, "it was cancelled")
				b.outcome = &nimbus.Outcome{Result: nimbus.ResultCancelled, BeforeStart: b.runner == nil}
			}
		case nimbus.VerdictFenced:
			h.kill(b, "it was fenced")
			b.gone = true
		}
	}
}

// kill ends a sandbox; a job that its runner has is lost by it.
func (h *host) kill(b *sandbox, why string) {
	if b.runner != nil {
		b.runner.Vanish()
	}
	if b.work != 0 && b.outcome == nil {
		h.w.suffer(b.work, why)
	}
}

func (h *host) poll(ctx context.Context) {
	free := h.slots
	for _, b := range h.sandboxes {
		free -= b.slots
	}
	if free <= 0 {
		return
	}
	r, err := h.w.plane.Poll(ctx, h.id, nimbus.Capacity{CPUs: free, MemoryMiB: free << 10, Sandboxes: free}, 0)
	h.w.must(err)
	for _, o := range r.Offers {
		as, err := h.w.plane.Accept(ctx, h.id, o.Lease)
		if nimbus.ErrorCode(err) == nimbus.CodeFenced {
			continue
		}
		h.w.must(err)
		boots := 2*time.Second + time.Duration(h.w.chance("boot", as.AttemptID)*float64(8*time.Second))
		h.sandboxes = append(h.sandboxes, &sandbox{lease: as.Lease, jobID: as.JobID, slots: as.Class.CPUs, renewed: h.w.now,
			ready: h.w.now.Add(boots), giveUp: h.w.now.Add(boots + patience)})
	}
}

// work takes a sandbox a step further.
func (h *host) work(ctx context.Context, b *sandbox) {
	switch {
	case b.gone:
	case b.outcome != nil:
		h.tell(ctx, b)
	case b.runner == nil:
		if !h.w.now.Before(b.ready) && !h.w.down.Load() {
			h.register(ctx, b)
		}
	default:
		h.run(b)
	}
}

// register asks for a runner, for as long as an agent does.
func (h *host) register(ctx context.Context, b *sandbox) {
	_, jit, err := h.w.plane.CreateRunner(ctx, h.id, b.lease)
	failed := func(code nimbus.ReasonCode) {
		b.outcome = &nimbus.Outcome{Result: nimbus.ResultFailure, BeforeStart: true, Reason: nimbus.Reason{Code: code, Message: err.Error()}}
	}
	switch nimbus.ErrorCode(err) {
	case "":
		h.runners++
		if b.runner, err = h.w.Connect(jit); err != nil {
			failed(nimbus.ReasonSandboxFailed)
			return
		}
		err := h.w.plane.ReportPhase(ctx, h.id, b.lease, nimbus.PhaseStarted, nimbus.Start{})
		if nimbus.ErrorCode(err) == nimbus.CodeFenced {
			return // the next heartbeat tells, too
		}
		h.w.must(err)
	case nimbus.CodeUnavailable, nimbus.CodeRateLimited, nimbus.CodeInternal:
		b.ready = h.w.now.Add(min(max(nimbus.ErrorRetryAfter(err), time.Second), time.Minute))
		if h.w.now.After(b.giveUp) {
			failed(nimbus.ReasonForgeAway)
		}
	case nimbus.CodeFenced:
		b.gone = true
	default:
		failed(nimbus.ReasonForge)
	}
}

// run is what the runner does in the sandbox.
func (h *host) run(b *sandbox) {
	id, busy, err := b.runner.Job()
	switch {
	case err != nil: // GitHub knows it no more: its listener ends well
		b.outcome = &nimbus.Outcome{Result: nimbus.ResultSuccess, ExitCode: new(int)}
	case busy && b.work == 0:
		b.work = id
		b.end = h.w.now.Add(10*time.Second + time.Duration(h.w.chance("duration", id)*float64(5*time.Minute)))
		b.dies = h.w.chance("dies", id) < 0.02
		if j, err := h.w.plane.Job(h.w.t.Context(), nimbus.DefaultOrgID, b.jobID); err == nil && j.GitHub.JobID != id {
			h.another++
		}
	case busy && !h.w.now.Before(b.end) && b.dies:
		h.kill(b, "its sandbox died")
		b.outcome = &nimbus.Outcome{Result: nimbus.ResultFailure, Reason: nimbus.Reason{Code: nimbus.ReasonSandboxFailed, Message: "it died"}}
	case busy && !h.w.now.Before(b.end):
		h.w.must(b.runner.Finish("success"))
		b.outcome = &nimbus.Outcome{Result: nimbus.ResultSuccess, ExitCode: new(int)}
	}
}

// tell reports an end until that is taken.
func (h *host) tell(ctx context.Context, b *sandbox) {
	if h.w.down.Load() {
		return
	}
	err := h.w.plane.Finish(ctx, h.id, b.lease, *b.outcome)
	if err != nil && nimbus.ErrorCode(err) != nimbus.CodeFenced {
		h.w.must(err)
	}
	b.gone = true
}
