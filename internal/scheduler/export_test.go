package scheduler

import "context"

// What the loops of Run do, for tests that move the clock by themselves.
var (
	Sweep     = (*Service).sweep
	AskForge  = (*Service).askForge
	ReviewAll = (*Service).reviewAll
	Purge     = (*Service).purge
	StartAt   = startAt
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
