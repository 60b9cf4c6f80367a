package nimbus

import "testing"

// TestTransitions pins the whole state table: a move that is not in the plan's
// diagram is a mistake, and so is one that was taken out.
func TestTransitions(t *testing.T) {
	t.Parallel()
	legal := map[[2]State]bool{
		{StatePending, StateQueued}: true, {StatePending, StateUnschedulable}: true, {StatePending, StateFinished}: true,
		{StateQueued, StateOffered}: true, {StateQueued, StatePending}: true, {StateQueued, StateUnschedulable}: true, {StateQueued, StateFinished}: true,
		{StateOffered, StateQueued}: true, {StateOffered, StateAccepted}: true, {StateOffered, StateFinished}: true,
		{StateAccepted, StateQueued}: true, {StateAccepted, StateRunning}: true, {StateAccepted, StateUnschedulable}: true, {StateAccepted, StateFinished}: true,
		{StateRunning, StateQueued}: true, {StateRunning, StateFinished}: true,
		{StateUnschedulable, StatePending}: true, {StateUnschedulable, StateFinished}: true,
	}
	for _, from := range States() {
		for _, to := range States() {
			if got, want := from.CanBecome(to), legal[[2]State{from, to}]; got != want {
				t.Errorf("%s -> %s: CanBecome = %v, want %v", from, to, got, want)
			}
		}
	}
}

func TestOnlyARunningJobMaySucceed(t *testing.T) {
	t.Parallel()
	for _, s := range States() {
		if got, want := s.CanFinish(ResultSuccess), s == StateRunning; got != want {
			t.Errorf("%s: CanFinish(success) = %v, want %v", s, got, want)
		}
		if got, want := s.CanFinish(ResultLost), s == StateRunning; got != want {
			t.Errorf("%s: CanFinish(lost) = %v, want %v", s, got, want)
		}
		if got, want := s.CanFinish(ResultCancelled), s != StateFinished; got != want {
			t.Errorf("%s: CanFinish(cancelled) = %v, want %v", s, got, want)
		}
	}
}
