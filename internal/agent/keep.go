package agent

import (
	"context"
	"path/filepath"
	"time"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// wantsKeep tells whether the job wants its sandbox to stay after an outcome.
// The control plane decides; this says whether to ask it.
func (t *attempt) wantsKeep(o nimbus.Outcome) bool {
	return t.assign.Source != nimbus.SourceGitHub && t.assign.Spec.Hold > 0 && o.Result == nimbus.ResultFailure && !o.BeforeStart && t.why() == nil
}

// keep keeps the sandbox of a job that has failed, for shells, until its time is
// over, it is given up, or the lease is lost: all of these come as the end of
// the attempt. The job's end is told at once. The lease and the shim's deadline
// are renewed as before.
func (t *attempt) keep(ctx context.Context, o nimbus.Outcome) {
	if !t.wantsKeep(o) {
		return
	}
	t.awaitTold()
	answer, err := call(ctx, t.agent.control.FinishAttempt, &nimbusv1.FinishAttemptRequest{Lease: wire.Lease(t.lease()), Outcome: wire.Outcome(o), Hold: true})
	if err != nil || !answer.GetHeld() {
		if err != nil && ctx.Err() == nil {
			t.log.WarnContext(ctx, "keep the sandbox", "error", err)
		}
		return
	}
	e := t.agent.executors[t.assign.Class.Executor]
	if e == nil {
		return
	}
	sandbox, err := e.Adopt(ctx, t.assign.AttemptID, filepath.Join(t.dir, "sandbox"))
	if err != nil {
		t.log.WarnContext(ctx, "keep the sandbox", "error", err)
		return
	}
	t.mu.Lock()
	t.sandbox = sandbox
	t.mu.Unlock()
	t.renew(ctx, time.Time{})
	t.log.InfoContext(ctx, "its sandbox stays", "at_most", t.assign.Spec.Hold)
	g := newGuest(t, sandbox)
	defer g.close()
	endShells := t.serveShells(ctx, g)
	select {
	case <-t.ended:
		endShells(errReleased)
	case <-g.dead:
		endShells(errJobEnded)
	case <-ctx.Done():
		endShells(errAgentStopped)
	}
}
