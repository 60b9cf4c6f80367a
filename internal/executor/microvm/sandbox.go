package microvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm"
	"github.com/nimbus-ci/nimbus/internal/guestlink"
)

// guestDevice is what the guest's kernel calls its only network device.
const guestDevice = "eth0"

// sandbox implements executor.Sandbox.
type sandbox struct {
	executor.Shimmed

	executor *Executor
	id, dir  string
	machine  string // the name of its network and cgroup
	slot     netslot.Slot
	env      []string // of the image
	origin   nimbus.Origin
	laps     *laps // of its start

	mu    sync.Mutex
	first net.Conn // to the guest, from when it was waited for
}

func (s *sandbox) ID() string { return s.id }

// Env is what the image sets.
func (s *sandbox) Env() []string { return s.env }

// Origin is what the machine was made of.
func (s *sandbox) Origin() nimbus.Origin { return s.origin }

// Token is none: only the agent can open the port's socket.
func (s *sandbox) Token() string { return "" }

func (s *sandbox) Network() *nimbusv1.NetworkConfig {
	n := &nimbusv1.NetworkConfig{
		Device: guestDevice, Address: netslot.Guest.String(), Gateway: netslot.Gateway.String(),
		Hosts: map[string]string{GatewayName: netslot.Gateway.String()},
	}
	if s.slot.Resolver.IsValid() {
		n.Nameservers = []string{s.slot.Resolver.String()}
	}
	return n
}

// NetworkID implements executor.Doored. The network has the machine's name, which
// may be older than the sandbox.
func (s *sandbox) NetworkID() string { return s.machine }

// Refused implements executor.Fenced. The network has the machine's name: it
// may be older than the sandbox.
func (s *sandbox) Refused(context.Context) ([]executor.Refusal, error) {
	return s.executor.slots.Refused(s.machine)
}

// Usage implements executor.Metered: of the machine with its monitor, and of its
// tap. What the tap received, the guest has sent.
func (s *sandbox) Usage(ctx context.Context) (nimbus.UsageSample, error) {
	u, member, err := s.Measure(ctx)
	if err != nil || member == 0 {
		return u, err
	}
	u.SentBytes, u.ReceivedBytes, err = netslot.Traffic(member)
	return u, err
}

// Dial returns the connection over which the guest first answered, then new ones.
func (s *sandbox) Dial(ctx context.Context) (net.Conn, error) {
	s.mu.Lock()
	first := s.first
	s.first = nil
	s.mu.Unlock()
	if first != nil {
		return first, nil
	}
	return s.executor.cfg.Driver.Dial(ctx, s.dir)
}

var errBootTimeout = errors.New("the guest did not answer in time")

// untilEnd is a context that ends with the machine, too, and says how.
func (s *sandbox) untilEnd(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, give := context.WithCancelCause(ctx)
	go func() { // ends with ctx
		if exit, err := s.Wait(ctx); err == nil {
			give(fmt.Errorf("the machine ended with %d %s", exit.Code, exit.Signal))
		}
	}()
	return ctx, func() { give(nil) }
}

// awaitGuest waits until the guest answers, ctx ends, or the watchdog says that
// it hangs.
func (s *sandbox) awaitGuest(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errBootTimeout)
	defer cancel()
	for {
		conn, err := s.Dial(ctx)
		if err == nil {
			s.mu.Lock()
			s.first = conn
			s.mu.Unlock()
			return nil
		}
		// At first there is no socket yet.
		select {
		case <-time.After(socketInterval):
		case <-ctx.Done():
			return fmt.Errorf("boot: %w; its last words: %s", context.Cause(ctx), s.lastWords())
		}
	}
}

// socketInterval is how often a socket is looked for that is to appear.
const socketInterval = 5 * time.Millisecond

// lastWords is the end of the console, for the operator.
func (s *sandbox) lastWords() string {
	const enough = 1 << 10
	return executor.Printable(s.Shim.Output(enough))
}

// Wait returns how the machine ended.
func (s *sandbox) Wait(ctx context.Context) (executor.Exit, error) {
	exit, err := s.Shimmed.Wait(ctx)
	if err == nil && exit.Cause == executor.ExitSelf {
		exit.Why = whyEnded(exit, s.Shim.Output(panicBytes))
	}
	return exit, err
}

// panicBytes is how much of a console is looked through: what a kernel says when
// it panics fits into it.
const panicBytes = 16 << 10

// whyEnded is why a machine ended by itself, told by the last words of its
// kernel. The guest could write these too: it chooses among our sentences, and
// no more.
func whyEnded(exit executor.Exit, console []byte) string {
	if exit.Signal != "" {
		return "its machine's monitor was ended by " + exit.Signal
	}
	for _, known := range []struct{ words, why string }{
		{"Attempted to kill init", "its guest agent, the machine's first process, was ended"},
		{"deadlocked on memory", "its machine had no memory left"},
		{"Kernel panic", "the kernel of its machine panicked"},
	} {
		if bytes.Contains(console, []byte(known.words)) {
			return known.why
		}
	}
	return "its machine was switched off from within"
}

// imageFault is what the guest says on the console of a machine that could not
// start for what its image is, "" where it says no such thing. It said that
// before anything of the tenant's ran: nobody else could have.
func imageFault(console []byte) string {
	_, said, ok := bytes.Cut(console, []byte(guestlink.ImageFault))
	if !ok {
		return ""
	}
	const enough = 200
	said, _, _ = bytes.Cut(said, []byte("\n"))
	return strings.TrimSpace(executor.Printable(said[:min(len(said), enough)]))
}

// isImageFault tells whether the same would happen again.
func isImageFault(err error) bool {
	var fault *executor.ImageError
	return errors.As(err, &fault)
}

// hangUp closes the connection that nobody has taken.
func (s *sandbox) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first != nil {
		_ = s.first.Close() // nobody waits for what it says
		s.first = nil
	}
}

// Destroy kills the machine and removes its disk and network.
func (s *sandbox) Destroy(ctx context.Context) error {
	s.hangUp()
	if s.Shim != nil {
		if err := s.End(ctx); err != nil {
			return err
		}
	}
	if err := s.executor.remove(ctx, s.machine); err != nil {
		return fmt.Errorf("destroy sandbox: %w", err)
	}
	// The folder is the agent's; what the job wrote goes at once.
	if err := os.Remove(filepath.Join(s.dir, diskFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("destroy sandbox: %w", err)
	}
	if keeper, ok := s.executor.cfg.Driver.(vmm.Keeper); ok {
		return keeper.Clear(s.dir)
	}
	return nil
}
