package server

import (
	"context"
	"sync"

	"github.com/nimbus-ci/nimbus/internal/demand"
	"github.com/nimbus-ci/nimbus/internal/leader"
	"github.com/nimbus-ci/nimbus/internal/lifecycle"
)

// demand looks for what GitHub's webhooks did not tell, on the replica that
// leads.
func (s *Server) demand() lifecycle.Service {
	redelivery := &demand.Redelivery{Apps: s.github.senders, Store: s.store, Log: s.cfg.Log}
	poller := &demand.Poller{GitHub: s.github.forge, Store: s.store, Jobs: s.scheduler, Log: s.cfg.Log}
	leftovers := &demand.Leftovers{GitHub: s.github.forge, Store: s.store, Books: s.scheduler, Organizations: s.github.organizations, Log: s.cfg.Log}
	listener := &demand.Listener{GitHub: s.github.forge, Store: s.store, Jobs: s.scheduler, Owner: "nimbus", Log: s.cfg.Log}
	releases := s.github.releaseLook()
	work := func(ctx context.Context) {
		var loops sync.WaitGroup
		loops.Go(func() { leftovers.Run(ctx) })
		loops.Go(func() { redelivery.Run(ctx) })
		loops.Go(func() { poller.Run(ctx) })
		loops.Go(func() { listener.Run(ctx) })
		loops.Go(func() { releases.Run(ctx) })
		loops.Wait()
	}
	return lifecycle.Func("demand", func(ctx context.Context, ready func()) error {
		ready()
		if s.lead == nil {
			work(ctx)
			return nil
		}
		leader.Elector{Store: s.store, Name: "demand", Log: s.cfg.Log}.Run(ctx, work)
		return nil
	})
}

// senders are the Apps whose webhooks are looked after.
func (g *gitHub) senders() map[int64]demand.Sender {
	out := map[int64]demand.Sender{}
	for _, app := range g.forge.All() {
		out[app.ID()] = app
	}
	return out
}
