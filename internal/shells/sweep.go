package shells

import (
	"context"
	"errors"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Name implements lifecycle.Service.
func (*Service) Name() string { return "shells" }

// Run ends shells that nobody asks about any more, until ctx ends. Of many
// replicas one does it at a time.
func (s *Service) Run(ctx context.Context, ready func()) error {
	ready()
	if s.cfg.Lead == nil {
		s.sweepAll(ctx)
		return nil
	}
	s.cfg.Lead(ctx, s.sweepAll)
	return nil
}

func (s *Service) sweepAll(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.WarnContext(ctx, "ending shells failed, it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *Service) sweep(ctx context.Context) error {
	var errs []error
	for after := ""; ; {
		open, err := s.cfg.Store.OpenShells(ctx, after)
		if err != nil {
			return err
		}
		for _, st := range open {
			after = st.ID
			_, err := s.judged(ctx, st)
			errs = append(errs, err)
		}
		if len(open) == 0 {
			break
		}
	}
	return errors.Join(append(errs, s.cfg.Store.ForgetShells(ctx, keptFor))...)
}

// HostStarted ends the shells of a host whose agent was started anew: what they
// were is gone with the one before.
func (s *Service) HostStarted(ctx context.Context, hostID string) error {
	ids, err := s.cfg.Store.ShellsOfHost(ctx, hostID)
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range ids {
		errs = append(errs, s.end(ctx, id, nimbus.ShellEnd{Reason: nimbus.ShellAgentStopped, Message: "the host's agent was started anew; the job goes on"}, "host:"+hostID))
	}
	return errors.Join(errs...)
}
