package scheduler

import (
	"context"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// ReportPhase records how far an attempt is. Repeating it is safe. Of an
// attempt that is over, only that its sandbox is destroyed is still taken. Start
// is what a host tells with nimbus.PhaseSandboxReady, which is counted once.
// Codes: fenced, invalid.
func (s *Service) ReportPhase(ctx context.Context, hostID string, l nimbus.Lease, p nimbus.Phase, start nimbus.Start) error {
	if err := start.Check(); err != nil {
		return err
	}
	return s.gather.do(ctx, Keys{Attempts: []string{l.AttemptID}}, func(ctx context.Context, u *unit) error {
		j, a, err := u.lease(ctx, hostID, l)
		if err != nil {
			return err
		}
		if a.State != AttemptLive && (p != nimbus.PhaseDestroyed || a.AcceptedAt.IsZero()) {
			return fenced(l)
		}
		known := !a.SandboxReadyAt.IsZero()
		if p == nimbus.PhaseSandboxReady && !known {
			a.Origin = start.Origin // saved with the phase
		}
		if err := u.phase(ctx, j, a, p); err != nil {
			return err
		}
		if p == nimbus.PhaseSandboxReady && !known && start.Origin != "" {
			u.tally.Started = append(u.tally.Started, Started{Class: j.Class, Start: start})
		}
		return nil
	})
}

func (u *unit) phase(ctx context.Context, j *JobRecord, a *Attempt, p nimbus.Phase) error {
	var at *time.Time
	switch p {
	case nimbus.PhaseSandboxReady:
		at = &a.SandboxReadyAt
	case nimbus.PhaseStarted:
		at = &a.StartedAt
	case nimbus.PhaseFirstOutput:
		at = &a.FirstOutputAt
	case nimbus.PhaseDestroyed:
		at = &a.DestroyedAt
	default:
		return nimbus.Errorf(nimbus.CodeInvalid, "there is no phase %q", clip(string(p)))
	}
	if !at.IsZero() {
		return nil
	}
	*at = u.now
	actor := actorHost(a.HostID)
	// A native job runs when its process does. A GitHub runner that runs has no
	// job yet: only GitHub tells which one it gets.
	if p == nimbus.PhaseStarted && j.Source == nimbus.SourceNative && j.State == nimbus.StateAccepted {
		return u.running(ctx, j, a, actor)
	}
	if err := u.SaveAttempt(ctx, a); err != nil {
		return err
	}
	return u.note(ctx, j, string(p), a.AttemptID, actor, "")
}

// running binds a job to the attempt that runs it, which makes the attempt's
// tokens work.
func (u *unit) running(ctx context.Context, j *JobRecord, a *Attempt, actor string) error {
	a.RunningAt = u.now
	if err := u.SaveAttempt(ctx, a); err != nil {
		return err
	}
	return u.move(ctx, j, Move{To: nimbus.StateRunning, Actor: actor})
}
