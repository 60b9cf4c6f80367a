package cli

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
)

func TestPlaceInWords(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for want, p := range map[string]nimbus.QueuePlace{
		"next, starts about now":                                        {StartAt: now},
		"1 job before it, starts in about 90 s":                         {Ahead: 1, StartAt: now.Add(90 * time.Second)},
		"12 jobs before it, starts in about 10 min":                     {Ahead: 12, StartAt: now.Add(10 * time.Minute)},
		"at least 500 jobs before it; when it starts can't be told: so": {Ahead: 500, AtLeast: true, Unknown: "so"},
	} {
		if got := placeWords(p, now); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestAttemptsAreReadFromTheHistory(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	event := func(seconds int, kind, attempt, detail string) nimbus.JobEvent {
		return nimbus.JobEvent{At: at.Add(time.Duration(seconds) * time.Second), Kind: kind, AttemptID: attempt, Detail: detail}
	}
	got := attempts([]nimbus.JobEvent{
		event(0, "pending", "", ""), event(1, "queued", "", ""),
		event(2, "offered", "att_1", "to host_a"), event(5, "queued", "att_1", "not accepted in time"),
		event(6, "offered", "att_2", "to host_b"), event(7, "accepted", "att_2", ""), event(37, "queued", "att_2", "host_b was not heard of for 30 s"),
		event(38, "offered", "att_3", "to host_a"), event(39, "accepted", "att_3", ""), event(40, "running", "att_3", ""),
	})
	ended := func(seconds int) *time.Time { return new(at.Add(time.Duration(seconds) * time.Second)) }
	want := []attemptView{
		{ID: "att_1", Host: "host_a", TakenAt: at.Add(2 * time.Second), EndedAt: ended(5), Outcome: "queued", Because: "not accepted in time", NotTaken: true},
		{ID: "att_2", Host: "host_b", TakenAt: at.Add(6 * time.Second), EndedAt: ended(37), Outcome: "queued", Because: "host_b was not heard of for 30 s"},
		{ID: "att_3", Host: "host_a", TakenAt: at.Add(38 * time.Second)},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
