package scheduler

import (
	"context"
	"errors"
)

// Tick does at once what Run does at its intervals: for those who move the clock
// themselves.
func (s *Service) Tick(ctx context.Context) error {
	errs := []error{s.sweep(ctx), s.reviewAll(ctx), new(places).next(ctx, s)}
	if s.forge != nil {
		errs = append(errs, s.askForge(ctx))
	}
	return errors.Join(errs...)
}
