package gpu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/wholefile"
)

const (
	// usageFile keeps, in a sandbox' folder, what it has used, for the next agent.
	usageFile = "gpu.json"
	// keepUsage is how often.
	keepUsage = 5 * time.Second
	// idleTimeout is how long GPUs are waited for to be idle once their container
	// has ended. Those that are not, no job gets until they are.
	idleTimeout = 10 * time.Second
)

// sandbox is a container with GPUs: all that a container is, and what follows
// from having them.
type sandbox struct {
	executor.Sandbox

	e     *Executor
	units []string
	dir   string

	mu    sync.Mutex
	base  *nimbus.GPUSample // what they had done when it came here; nil before that is known
	used  nimbus.GPUSample  // before that, by the process of an earlier agent
	saved time.Time
}

// metered is a sandbox whose container can be measured.
type metered struct {
	*sandbox
	executor.Metered
}

// wrap makes a container one with GPUs.
func (e *Executor) wrap(inner executor.Sandbox, dir string) (executor.Sandbox, error) {
	e.mu.Lock()
	units, err := e.unitsOf(inner.ID())
	e.mu.Unlock()
	if err != nil {
		return nil, err
	}
	s := &sandbox{Sandbox: inner, e: e, units: units, dir: dir}
	if err := s.load(); err != nil {
		e.log.Warn("what a sandbox used of its GPUs so far is lost", "sandbox", inner.ID(), "error", err)
	}
	if base, err := e.monitor.usage(units); err == nil {
		s.base = &base
	}
	if m, ok := inner.(executor.Metered); ok {
		return &metered{s, m}, nil
	}
	return s, nil
}

// Env implements executor.Furnished.
func (s *sandbox) Env() []string {
	if f, ok := s.Sandbox.(executor.Furnished); ok {
		return f.Env()
	}
	return nil
}

// Origin implements executor.Dated.
func (s *sandbox) Origin() nimbus.Origin {
	if d, ok := s.Sandbox.(executor.Dated); ok {
		return d.Origin()
	}
	return nimbus.OriginCold
}

// Refused implements executor.Fenced.
func (s *sandbox) Refused(ctx context.Context) ([]executor.Refusal, error) {
	if f, ok := s.Sandbox.(executor.Fenced); ok {
		return f.Refused(ctx)
	}
	return nil, nil
}

// OutOfMemory implements executor.Limited.
func (s *sandbox) OutOfMemory(ctx context.Context) (bool, error) {
	if l, ok := s.Sandbox.(executor.Limited); ok {
		return l.OutOfMemory(ctx)
	}
	return false, nil
}

// GPUUsage implements executor.Accelerated.
func (s *sandbox) GPUUsage(context.Context) (nimbus.GPUSample, error) {
	now, err := s.e.monitor.usage(s.units)
	if err != nil {
		return now, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.base == nil {
		s.base = &now
	}
	sum := nimbus.GPUSample{Busy: s.used.Busy + now.Busy - s.base.Busy, MemoryBytes: now.MemoryBytes, Millijoules: s.used.Millijoules + now.Millijoules - s.base.Millijoules}
	if time.Since(s.saved) >= keepUsage {
		s.saved = time.Now()
		if err := s.save(sum); err != nil {
			return sum, err
		}
	}
	return sum, nil
}

func (s *sandbox) save(used nimbus.GPUSample) error {
	raw, err := json.Marshal(used) //nolint:musttag // nobody else reads the file
	if err != nil {
		return fmt.Errorf("keep what GPUs did: %w", err)
	}
	if err := wholefile.Write(filepath.Join(s.dir, usageFile), raw, 0o600); err != nil {
		return fmt.Errorf("keep what GPUs did: %w", err)
	}
	return nil
}

func (s *sandbox) load() error {
	raw, err := os.ReadFile(filepath.Join(s.dir, usageFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &s.used) //nolint:musttag // as above
	}
	return err
}

// Destroy ends the container, and gives its GPUs back once nothing is left on
// them. What is left for too long keeps them from other jobs, but not this one
// from its end: whoever is idle again is in service again.
func (s *sandbox) Destroy(ctx context.Context) error {
	if err := s.Sandbox.Destroy(ctx); err != nil {
		return err
	}
	if len(s.units) == 0 {
		return nil
	}
	idle, cancel := context.WithTimeout(ctx, idleTimeout)
	defer cancel()
	if err := s.e.monitor.awaitIdle(idle, s.units); err != nil {
		s.e.log.WarnContext(ctx, "GPUs are not left idle", "sandbox", s.ID(), "error", err)
	}
	return s.e.release(s.ID())
}
