package githubtest_test

import (
	"testing"
	"time"

	nimbus "github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest/protocol"
)

const matrix = `
on: push
jobs:
  a:
    runs-on: [nimbus]
    strategy: {fail-fast: false, matrix: {n: [1, 2]}}
    steps: [{run: echo}]
  b:
    needs: a
    runs-on: [nimbus]
    steps: [{run: echo}]
`

// TestRerunAtGitHub: both ways of running jobs again, and what GitHub refuses.
func TestRerunAtGitHub(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run := w.push(project(matrix))
	job := w.event(run.Jobs[0].ID).Job
	code(t, w.app.RerunJob(w.ctx, job), nimbus.CodeConflict, "already running")
	code(t, w.app.RerunFailed(w.ctx, job), nimbus.CodeConflict, "already running")
	if state, err := w.app.RunState(w.ctx, job); err != nil || state.Over || state.Attempt != 1 || state.Jobs != nil {
		t.Errorf("%+v, %v", state, err)
	}
	w.ends(run.Jobs[0].ID, protocol.Failure)
	w.ends(run.Jobs[1].ID, protocol.Success)
	state, err := w.app.RunState(w.ctx, job)
	if err != nil || !state.Over || !state.All || len(state.Jobs) != 3 || !state.Jobs[run.Jobs[0].ID].Failed() || state.Jobs[run.Jobs[2].ID].Conclusion != "skipped" {
		t.Fatalf("%+v, %v", state, err)
	}

	w.Grant(map[string]string{"metadata": "read", "actions": "read", "administration": "write"})
	err = w.app.RerunFailed(w.ctx, job)
	code(t, err, nimbus.CodeForbidden, "may not run jobs again")
	if hint := nimbus.ErrorHint(err); hint == "" {
		t.Error("it does not say how to mend that")
	}
	w.Grant(map[string]string{"metadata": "read", "actions": "write", "administration": "write"})
	if err := w.app.RerunFailed(w.ctx, job); err != nil {
		t.Fatal(err)
	}
	second, _ := w.Run(run.ID)
	if second.Attempt != 2 || second.Jobs[0].ID == run.Jobs[0].ID || second.Jobs[1].ID != run.Jobs[1].ID || second.Jobs[2].ID == run.Jobs[2].ID {
		t.Errorf("what succeeded is run again, or what did not is not: %+v", second)
	}
	w.ends(second.Jobs[0].ID, protocol.Success)
	w.ends(second.Jobs[2].ID, protocol.Failure)
	if err := w.app.RerunJob(w.ctx, w.event(second.Jobs[2].ID).Job); err != nil {
		t.Fatal(err)
	}
	if third, _ := w.Run(run.ID); third.Attempt != 3 || third.Jobs[0].ID != second.Jobs[0].ID || third.Jobs[2].ID == second.Jobs[2].ID {
		t.Errorf("%+v", third)
	}
	if err := w.CancelRun(run.ID); err != nil {
		t.Fatal(err)
	}
	w.clock.move(31 * 24 * time.Hour)
	code(t, w.app.RerunFailed(w.ctx, job), nimbus.CodeForbidden, "over a month ago")
}

// ends has somebody's runner take a job and end it.
func (w *world) ends(id int64, conclusion string) {
	w.t.Helper()
	if err := w.Steal(id, "somebody's"); err != nil {
		w.t.Fatal(err)
	}
	if err := w.FinishStolen(id, conclusion); err != nil {
		w.t.Fatal(err)
	}
}
