package gpu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/gpu/inventory"
)

const (
	// onceTimeout bounds one look at the GPUs: a driver that was just loaded takes
	// its time.
	onceTimeout = 20 * time.Second
	// stall is after how long without a word the helper is ended and started anew,
	// and what it said is not believed any more.
	stall = 15 * time.Second
	// restartFirst and restartMost are how long its next start is waited for.
	restartFirst = time.Second
	restartMost  = time.Minute
	// longestStep bounds what one sample stands for.
	longestStep = 5 * time.Second
	// wordsBytes is how much of what it says on its standard error is told.
	wordsBytes = 2 << 10
	// maxXIDs bounds what is kept of a GPU's errors.
	maxXIDs = 16
)

// monitor knows what nimbus-nvml says: it keeps the helper running while it is
// watched, and else looks once.
type monitor struct {
	program func() (string, error)
	log     *slog.Logger
	stall   time.Duration

	looking sync.Mutex // held by who looks once

	mu      sync.Mutex
	running bool // the helper does, and tells of itself
	inv     inventory.Inventory
	why     error // why there is no inventory
	heard   time.Time
	samples map[string]inventory.Sample
	last    map[string]int64 // when they were taken, by the helper's clock
	used    map[string]nimbus.GPUSample
	xids    map[string][]uint64
	hot     map[string]bool
	news    chan struct{} // closed with the next word
}

func newMonitor(program func() (string, error), log *slog.Logger) *monitor {
	return &monitor{
		program: program, log: log, stall: stall, why: errors.New("nobody has looked yet"), samples: map[string]inventory.Sample{}, last: map[string]int64{},
		used: map[string]nimbus.GPUSample{}, xids: map[string][]uint64{}, hot: map[string]bool{}, news: make(chan struct{}),
	}
}

// watch keeps the helper running until ctx ends. changed is called with each word
// of it.
func (m *monitor) watch(ctx context.Context, changed func()) {
	pause := restartFirst
	for ctx.Err() == nil {
		began := time.Now()
		err := m.session(ctx, nil, changed)
		if ctx.Err() != nil {
			return
		}
		m.fail(err)
		changed()
		if time.Since(began) > restartMost {
			pause = restartFirst
		}
		m.log.WarnContext(ctx, "GPUs are not watched", "error", err, "hint", nimbus.ErrorHint(err), "again_in", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, restartMost)
	}
}

// look makes sure that what is known is of now.
func (m *monitor) look(ctx context.Context) error {
	m.looking.Lock()
	defer m.looking.Unlock()
	m.mu.Lock()
	fresh, why := m.running && time.Since(m.heard) < m.stall, m.why
	m.mu.Unlock()
	if fresh {
		return why
	}
	ctx, cancel := context.WithTimeout(ctx, onceTimeout)
	defer cancel()
	err := m.session(ctx, []string{"-once"}, func() {})
	if err != nil {
		m.fail(err)
	}
	return err
}

// session runs the helper to its end, and takes in what it says. An end without
// an error is one that was asked for.
func (m *monitor) session(ctx context.Context, args []string, changed func()) error {
	path, err := m.program()
	if err != nil {
		return nimbus.Errorf(nimbus.CodeUnavailable, "nimbus-nvml, which reads the GPUs, is not installed: %w", err).
			WithHint("install it beside the agent; it is built where there is a C compiler")
	}
	// The helper ends with the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ctx, end := context.WithCancel(ctx)
	defer end()
	cmd := exec.CommandContext(ctx, path, args...)
	words := &tail{}
	cmd.Stderr, cmd.Env, cmd.Dir = words, environment(), "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	in, err := cmd.StdinPipe() // it ends with it
	if err != nil {
		return fmt.Errorf("start nimbus-nvml: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start nimbus-nvml: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start nimbus-nvml: %w", err)
	}
	once := len(args) > 0
	err = m.listen(out, once, changed, end)
	m.mu.Lock()
	m.running = false
	m.mu.Unlock()
	in.Close()
	if !errors.Is(err, io.EOF) {
		end() // it is of no use any more
		_ = cmd.Wait()
		return err
	}
	waitErr := cmd.Wait()
	if once && waitErr == nil {
		return nil
	}
	if said := executor.Printable(words.bytes()); said != "" {
		return fmt.Errorf("nimbus-nvml has ended: %s", said)
	}
	if waitErr != nil {
		return fmt.Errorf("nimbus-nvml has ended: %w", waitErr)
	}
	return errors.New("nimbus-nvml has ended")
}

// environment is what the helper gets of ours: the rest may hold secrets.
func environment() (env []string) {
	for _, key := range []string{"PATH", "LD_LIBRARY_PATH"} {
		if value, ok := os.LookupEnv(key); ok {
			env = append(env, key+"="+value)
		}
	}
	return env
}

// listen takes in documents up to their end, which is io.EOF, or for too long a
// silence.
func (m *monitor) listen(out io.Reader, once bool, changed, end func()) error {
	silence := time.AfterFunc(m.stall, end)
	defer silence.Stop()
	seen := false
	for r := inventory.NewReader(out); ; {
		d, err := r.Next()
		if errors.Is(err, io.EOF) && !seen {
			return errors.New("nimbus-nvml said nothing of any GPU")
		}
		if err != nil {
			return err
		}
		silence.Reset(m.stall)
		if f := d.Failure; f != nil {
			return nimbus.Errorf(nimbus.CodeUnavailable, "%s", f.What).WithHint("%s", f.Hint)
		}
		m.take(d, once)
		seen = seen || d.Usage != nil
		changed()
	}
}

// fail notes why nothing is known.
func (m *monitor) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.why = err
	m.tell()
}

func (m *monitor) tell() {
	close(m.news)
	m.news = make(chan struct{})
}

// take takes in a document.
func (m *monitor) take(d inventory.Document, once bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case d.Inventory != nil:
		m.inv = *d.Inventory
		for _, g := range m.inv.GPUs {
			m.hot[g.UUID] = g.Condition.TooHot(m.hot[g.UUID])
		}
		m.forget()
	case d.Event != nil:
		if list := m.xids[d.Event.GPU]; len(list) < maxXIDs && !slices.Contains(list, d.Event.XID) && !inventory.OfPrograms(d.Event.XID) {
			m.xids[d.Event.GPU] = append(list, d.Event.XID)
		}
	case d.Usage != nil:
		m.heard, m.running, m.why = time.Now(), !once, nil
		for _, s := range d.Usage.Samples {
			m.count(s, d.Usage.AtMillis, once)
		}
	}
	m.tell()
}

// count adds what a GPU did since the sample before.
func (m *monitor) count(s inventory.Sample, atMillis int64, once bool) {
	before, ok := m.samples[s.ID]
	step := time.Duration(atMillis-m.last[s.ID]) * time.Millisecond
	m.samples[s.ID], m.last[s.ID] = s, atMillis
	u := m.used[s.ID]
	u.MemoryBytes = s.MemoryBytes
	if ok && !once && step > 0 && step <= longestStep { // else it is of another helper
		u.Busy += step * time.Duration(max(s.BusyPercent, 0)) / 100
		if drawn := s.EnergyMillijoules - before.EnergyMillijoules; before.EnergyMillijoules > 0 && drawn >= 0 {
			u.Millijoules += drawn
		} else {
			u.Millijoules += s.PowerMilliwatts * step.Milliseconds() / 1000
		}
	}
	m.used[s.ID] = u
}

// forget forgets what is not there any more.
func (m *monitor) forget() {
	known := map[string]bool{}
	for _, u := range m.inv.Units() {
		known[u.ID] = true
	}
	for id := range m.samples {
		if !known[id] {
			delete(m.samples, id)
			delete(m.last, id)
			delete(m.used, id)
		}
	}
}

// state is what is known now.
type state struct {
	inv    inventory.Inventory
	faults map[string]string // by the unit's id; of those that no job has, or all
	err    error
}

// now tells what there is, and what is wrong with it. Units that taken names have
// a job: that they are in use is as it should be.
func (m *monitor) now(taken map[string]string) state {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := state{inv: m.inv, faults: map[string]string{}, err: m.why}
	if s.err == nil && time.Since(m.heard) > m.stall {
		s.err = errors.New("nimbus-nvml has not said anything for a while")
	}
	for _, u := range s.inv.Units() {
		g, _ := s.inv.GPU(u.GPU)
		fault := g.Condition.Fault(m.xids[g.UUID], m.hot[g.UUID])
		if sample, ok := m.samples[u.ID]; fault == "" && taken[u.ID] == "" {
			if fault = sample.Busy(); !ok {
				fault = "has not been looked at yet"
			}
		}
		if fault != "" {
			s.faults[u.ID] = fault
		}
	}
	return s
}

// usage is what units have used so far, together, since this process watches.
func (m *monitor) usage(ids []string) (sum nimbus.GPUSample, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.why != nil {
		return sum, fmt.Errorf("measure GPUs: %w", m.why)
	}
	for _, id := range ids {
		u, ok := m.used[id]
		if !ok {
			return sum, fmt.Errorf("measure GPUs: nothing is known of %s", id)
		}
		sum.Busy += u.Busy
		sum.MemoryBytes += u.MemoryBytes
		sum.Millijoules += u.Millijoules
	}
	return sum, nil
}

// awaitIdle waits until units are seen idle that nobody uses any more.
func (m *monitor) awaitIdle(ctx context.Context, ids []string) error {
	began := time.Now()
	for {
		if err := m.look(ctx); err != nil {
			return err
		}
		m.mu.Lock()
		news, left := m.news, m.leftOn(ids, began)
		running := m.running
		m.mu.Unlock()
		if left == nil {
			return nil
		}
		if !running {
			news = nil // nobody tells: look again
		}
		select {
		case <-news:
		case <-time.After(time.Second):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", left, context.Cause(ctx))
		}
	}
}

// leftOn tells what is on units that were looked at since a moment.
func (m *monitor) leftOn(ids []string, since time.Time) error {
	if !m.heard.After(since) {
		return errors.New("nobody has looked since")
	}
	for _, id := range ids {
		if s, ok := m.samples[id]; ok && s.Busy() != "" {
			return fmt.Errorf("GPU %s %s", id, s.Busy())
		}
	}
	return nil
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	kept []byte
}

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, p...)
	t.kept = slices.Clone(t.kept[max(0, len(t.kept)-wordsBytes):])
	return len(p), nil
}

func (t *tail) bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.kept
}
