package cli

import (
	"fmt"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
)

// attemptView is one time that a job was given to a host, and what became of it.
type attemptView struct {
	ID       string     `json:"id"`
	Host     string     `json:"host,omitempty"`
	TakenAt  time.Time  `json:"taken_at"`
	EndedAt  *time.Time `json:"ended_at,omitempty"`
	Outcome  string     `json:"outcome,omitempty"`   // the state that the job went to
	Because  string     `json:"because,omitempty"`   // why it ended
	NotTaken bool       `json:"not_taken,omitempty"` // the host did not accept it: not counted
}

// attempts reads from a job's history how often it was given to a host, and
// why each time ended.
func attempts(events []nimbus.JobEvent) (out []attemptView) {
	for _, e := range events {
		last := len(out) - 1
		open := last >= 0 && out[last].EndedAt == nil
		switch nimbus.State(e.Kind) {
		case nimbus.StateOffered:
			out = append(out, attemptView{ID: e.AttemptID, Host: hostOf(e), TakenAt: e.At, NotTaken: true})
		case nimbus.StateAccepted:
			if open {
				out[last].NotTaken = false
			}
		case nimbus.StateQueued, nimbus.StateFinished:
			if open {
				at := e.At
				out[last].EndedAt, out[last].Outcome, out[last].Because = &at, e.Kind, e.Detail
			}
		}
	}
	return out
}

// hostOf is to which host an offer was made.
func hostOf(e nimbus.JobEvent) string {
	var host string
	_, _ = fmt.Sscanf(e.Detail, "to %s", &host) // "" where it says something else
	return host
}

// printAttempts writes the attempts of a job that had more than one.
func (a *app) printAttempts(views []attemptView) error {
	if len(views) < 2 {
		return nil
	}
	var rows []string
	for i, v := range views {
		because := terminal.OneLine(v.Because)
		if v.EndedAt == nil {
			because = "goes on"
		}
		rows = append(rows, fmt.Sprintf("%d\t%s\t%s\t%s\t%s", i+1, v.ID, v.Host, v.TakenAt.Format("15:04:05"), because))
	}
	if err := a.table("ATTEMPT\tID\tHOST\tTAKEN (UTC)\tENDED BECAUSE", rows); err != nil {
		return err
	}
	fmt.Fprintln(a.Out)
	return nil
}
