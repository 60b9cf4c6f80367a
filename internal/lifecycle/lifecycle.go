// Package lifecycle runs the services of a process: one contract for start,
// readiness and end, so that every goroutine has an owner.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
)

// Service is something that runs until it is told to stop.
type Service interface {
	// Name is how the service is called in logs and errors.
	Name() string
	// Run works until ctx ends and returns nil then. It calls ready exactly
	// once, when others may use the service. All its goroutines have ended
	// when it returns. An earlier return is a failure of the whole process.
	Run(ctx context.Context, ready func()) error
}

// Func makes a Service of a function.
func Func(name string, run func(ctx context.Context, ready func()) error) Service {
	return funcService{name: name, run: run}
}

type funcService struct {
	name string
	run  func(ctx context.Context, ready func()) error
}

func (f funcService) Name() string { return f.name }

func (f funcService) Run(ctx context.Context, ready func()) error { return f.run(ctx, ready) }

// Group starts services in order, each once the one before is ready, and stops
// them in reverse order.
type Group struct {
	Log      *slog.Logger
	Services []Service
}

// running is a started service.
type running struct {
	name string
	stop context.CancelFunc
	done chan error // one value
}

// Run starts all services, calls ready, and waits until ctx ends or one of
// them fails. It returns nil after a stop by ctx, and the failure otherwise.
func (g Group) Run(ctx context.Context, ready func()) error {
	// Values stay, cancellation does not pass through: services are stopped
	// one by one, in reverse order.
	base := context.WithoutCancel(ctx)
	failed := make(chan error, len(g.Services))
	var started []running
	err := func() error {
		for _, s := range g.Services {
			r, up := g.start(base, s, failed)
			started = append(started, r)
			select {
			case <-up:
				g.Log.DebugContext(ctx, "service ready", "service", s.Name())
			case err := <-failed:
				return err
			case <-ctx.Done():
				return nil
			}
		}
		ready()
		select {
		case err := <-failed:
			return err
		case <-ctx.Done():
			return nil
		}
	}()
	return errors.Join(err, g.stopAll(ctx, started, err != nil))
}

func (g Group) start(ctx context.Context, s Service, failed chan<- error) (running, <-chan struct{}) {
	ctx, cancel := context.WithCancel(ctx)
	up := make(chan struct{})
	r := running{name: s.Name(), stop: cancel, done: make(chan error, 1)}
	go func() {
		err := s.Run(ctx, func() { close(up) })
		if ctx.Err() == nil { // nobody asked it to stop
			if err == nil {
				err = errors.New("ended by itself")
			}
			failed <- fmt.Errorf("%s: %w", s.Name(), err)
			err = nil // told once
		}
		r.done <- err
	}()
	return r, up
}

func (g Group) stopAll(ctx context.Context, started []running, failing bool) error {
	var errs []error
	for i := len(started) - 1; i >= 0; i-- {
		r := started[i]
		r.stop()
		err := <-r.done
		if err == nil || errors.Is(err, context.Canceled) {
			continue
		}
		g.Log.ErrorContext(ctx, "service stopped with an error", "service", r.name, "error", err)
		if !failing {
			errs = append(errs, fmt.Errorf("stop %s: %w", r.name, err))
		}
	}
	return errors.Join(errs...)
}
