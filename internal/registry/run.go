package registry

import (
	"context"
	"time"
)

const (
	// flushEvery is how often it is written what was pulled.
	flushEvery = 10 * time.Second
	sweepEvery = time.Minute
)

// Name implements lifecycle.Service.
func (*Service) Name() string { return "registry" }

// Run writes down what is pulled, and sweeps where this replica leads, until ctx
// ends.
func (s *Service) Run(ctx context.Context, ready func()) error {
	ready()
	swept := make(chan struct{})
	go func() {
		defer close(swept)
		s.lead(ctx, s.sweepAll)
	}()
	defer func() { <-swept }()
	defer s.mirrors.stop()
	flush := time.NewTicker(flushEvery)
	defer flush.Stop()
	for {
		select {
		case <-ctx.Done():
			if err := s.after(ctx, s.Flush); err != nil {
				s.log.WarnContext(ctx, "the last pulls of images are not written", "error", err)
			}
			return nil
		case <-flush.C:
			if err := s.Flush(ctx); err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "the pulls of images could not be written", "error", err)
			}
		}
	}
}

func (s *Service) sweepAll(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "sweeping the registry failed, it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
