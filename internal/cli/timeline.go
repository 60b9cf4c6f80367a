package cli

import (
	"fmt"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// phase is one reached point of a job's life.
type phase struct {
	key, name string
	at        time.Time
}

// phases are the points that a job has reached, in the order of its life.
func phases(t nimbus.Timeline) []phase {
	var reached []phase
	for _, p := range []phase{
		{"received_at", "received", t.ReceivedAt},
		{"admitted_at", "admitted", t.AdmittedAt},
		{"queued_at", "queued", t.QueuedAt},
		{"offered_at", "offered", t.OfferedAt},
		{"accepted_at", "accepted", t.AcceptedAt},
		{"sandbox_ready_at", "sandbox ready", t.SandboxReadyAt},
		{"running_at", "running", t.RunningAt},
		{"first_output_at", "first output", t.FirstOutputAt},
		{"finished_at", "finished", t.FinishedAt},
		{"destroyed_at", "destroyed", t.DestroyedAt},
	} {
		if !p.at.IsZero() {
			reached = append(reached, p)
		}
	}
	return reached
}

// milliseconds is a duration as timelines show it: "12.3 ms".
func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}

// printTimeline writes each phase with its distance from the first and from
// the one before it.
func (a *app) printTimeline(t nimbus.Timeline) error {
	reached := phases(t)
	var rows []string
	for i, p := range reached {
		step := ""
		if i > 0 {
			step = "+" + milliseconds(p.at.Sub(reached[i-1].at))
		}
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s", p.name, milliseconds(p.at.Sub(reached[0].at)), step))
	}
	return a.table("PHASE\tAT\tSTEP", rows)
}
