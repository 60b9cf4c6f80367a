package scheduler

import (
	"context"

	"github.com/nimbus-ci/nimbus"
)

// What the loops of Run do, for tests that move the clock by themselves.
var (
	Sweep      = (*Service).sweep
	AskForge   = (*Service).askForge
	ReviewAll  = (*Service).reviewAll
	Purge      = (*Service).purge
	PassPlaces = func(s *Service, ctx context.Context) error { return new(places).next(ctx, s) }
	StartAt    = startAt
)

// Repair looks at all unfinished jobs once.
func Repair(s *Service, ctx context.Context) error {
	var all repairs
	for {
		if err := all.next(ctx, s); err != nil || all.after == (Cursor{}) {
			return err
		}
	}
}

// Events is the whole history of a job.
func (s *Service) Events(ctx context.Context, orgID, jobID string) (all []nimbus.JobEvent, err error) {
	for after := ""; ; {
		page, next, err := s.EventPage(ctx, orgID, jobID, 0, after)
		if all = append(all, page...); err != nil || next == "" {
			return all, err
		}
		after = next
	}
}
