package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/host"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/lifecycle"
)

// Embedded is a server and the agent of the same machine, in one process.
type Embedded struct {
	Config

	// Agent is the agent's configuration, nil for none. Its server, join token,
	// version and log are set here; it calls the server over loopback as it
	// would call any.
	Agent *host.Config
	// OnReady is called once requests are answered, before the agent starts.
	OnReady func(context.Context, *Server) error
}

// Run runs until ctx ends: the agent stops first, its jobs go on. It calls
// ready once the agent is there too.
func (e Embedded) Run(ctx context.Context, ready func()) (err error) {
	if e.TLS != nil && e.Agent != nil {
		// The certificate is for the name that others call.
		var lc net.ListenConfig
		if e.loopback, err = lc.Listen(ctx, "tcp", "127.0.0.1:0"); err != nil {
			return fmt.Errorf("listen for the agent: %w", err)
		}
		defer e.loopback.Close()
	}
	s, err := Open(ctx, e.Config)
	if err != nil {
		return errors.Join(err, e.Listener.Close())
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	defer context.AfterFunc(ctx, s.drain)() // the agent stops first
	services := []lifecycle.Service{s}
	if e.OnReady != nil {
		services = append(services, lifecycle.Func("announcement", func(ctx context.Context, ready func()) error {
			if err := e.OnReady(ctx, s); err != nil {
				return err
			}
			ready()
			<-ctx.Done()
			return nil
		}))
	}
	if e.Agent != nil {
		a, err := e.agent(ctx, s)
		if err != nil {
			return err
		}
		services = append(services, a)
	}
	return lifecycle.Group{Log: e.Log, Services: services}.Run(ctx, ready)
}

// joinFor is how long the agent has to join: until it was started.
const joinFor = 10 * time.Minute

func (e Embedded) agent(ctx context.Context, s *Server) (lifecycle.Service, error) {
	cfg := *e.Agent
	listener := e.Listener
	if e.loopback != nil {
		listener = e.loopback
	}
	cfg.Server = "http://" + listener.Addr().String()
	cfg.Data, cfg.Log = filepath.Join(e.Data, "agent"), e.Log
	var err error
	if cfg.JoinToken, _, err = s.identity.IssueJoin(ctx, identity.Root(), joinFor); nimbus.IsFull(err) {
		// It needs none if it has joined before, and what makes room needs a server.
		e.Log.ErrorContext(ctx, "the agent gets no join token", "error", err)
	} else if err != nil {
		return nil, fmt.Errorf("make a join token for the agent: %w", err)
	}
	return host.New(ctx, cfg)
}
