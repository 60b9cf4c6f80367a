package scheduler

import (
	"context"

	"github.com/nimbus-ci/nimbus"
)

// Accept turns an offer into an assignment. It may come late: it holds as long
// as the job was not offered to somebody else since. A repeated accept returns
// the assignment again, with a fresh token until the job runs. Codes: fenced.
func (s *Service) Accept(ctx context.Context, hostID string, l nimbus.Lease) (nimbus.Assignment, error) {
	var as nimbus.Assignment
	err := s.gather.do(ctx, Keys{Attempts: []string{l.AttemptID}}, func(ctx context.Context, u *unit) error {
		j, a, err := u.lease(ctx, hostID, l)
		if err != nil {
			return err
		}
		as = nimbus.Assignment{Lease: a.Lease, JobID: j.ID, OrgID: j.OrgID, Source: j.Source, Name: j.Name,
			Class: j.Class, Spec: j.Spec, Timeout: runTimeout(j)}
		if a.RunningAt.IsZero() {
			as.JobToken, a.TokenHash = s.tokens.MintJob()
		}
		return u.accept(ctx, j, a)
	})
	return as, err
}

func (u *unit) accept(ctx context.Context, j *JobRecord, a *Attempt) error {
	switch {
	case a.State == AttemptLive && a.ExpiresAt.After(u.now):
		// Repeated, because the answer was lost: the host counts its deadline
		// from when it sent this one, and so must the lease.
		a.ExpiresAt = u.now.Add(nimbus.LeaseDuration)
		return u.SaveAttempt(ctx, a)
	case j.AttemptID != a.AttemptID:
		return fenced(a.Lease) // offered again since
	case a.State == AttemptOffered && j.State == nimbus.StateOffered:
	case a.State == AttemptLapsed && j.State == nimbus.StateQueued: // late, and still the last
		if err := u.move(ctx, j, Move{To: nimbus.StateOffered, Actor: actorHost(a.HostID), Detail: "accepted late"}); err != nil {
			return err
		}
		if err := u.coolHost(ctx, a.HostID, u.now); err != nil { // it is well, only slow
			return err
		}
		u.promoteLater(j.Class) // it was in the window again
	default:
		return fenced(a.Lease)
	}
	a.State, a.AcceptedAt, a.ExpiresAt = AttemptLive, u.now, u.now.Add(nimbus.LeaseDuration)
	if err := u.SaveAttempt(ctx, a); err != nil {
		return err
	}
	u.tally.Accepted = append(u.tally.Accepted, u.now.Sub(a.OfferedAt))
	j.AttemptCount++
	return u.move(ctx, j, Move{To: nimbus.StateAccepted, Actor: actorHost(a.HostID)})
}
