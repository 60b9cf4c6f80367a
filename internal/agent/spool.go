package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/wholefile"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// spoolLimit is how much telemetry of an attempt may wait on the host's disk; at
// the limit senders are asked to try again.
const spoolLimit = 64 << 20

// spool keeps an attempt's telemetry until the server has it: a file for each
// batch, named by its number and by the number of the guest's request that it was
// made of, so that neither is given out twice by an agent that comes after. The
// file that was acknowledged last stays, empty, for its name.
type spool struct {
	dir   string
	limit int64

	mu      sync.Mutex
	waiting []spooled
	bytes   int64
	last    int64 // number of the newest batch ever
	taken   int64 // of the newest of the guest's requests that is in
	closed  bool  // the server wants no more
	dropped int64 // items that waited then
	changed chan struct{}
}

type spooled struct{ seq, taken, bytes int64 }

// Endings of file names.
const (
	spoolBatch = ".batch"
	spoolDone  = ".done"
)

func (e spooled) name(ending string) string {
	return fmt.Sprintf("%016d-%016d%s", e.seq, e.taken, ending)
}

func openSpool(dir string, limit int64) (*spool, error) {
	s := &spool{dir: dir, limit: limit, changed: make(chan struct{})}
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil // until there is something
	}
	if err != nil {
		return nil, fmt.Errorf("open the telemetry: %w", err)
	}
	for _, f := range files {
		var e spooled
		_, err := fmt.Sscanf(f.Name(), "%d-%d.", &e.seq, &e.taken)
		switch {
		case err != nil || f.Name() != e.name(spoolBatch) && f.Name() != e.name(spoolDone):
			if err := os.Remove(filepath.Join(dir, f.Name())); err != nil { // a draft
				return nil, fmt.Errorf("open the telemetry: %w", err)
			}
			continue
		case strings.HasSuffix(f.Name(), spoolBatch):
			info, err := f.Info()
			if err != nil {
				return nil, fmt.Errorf("open the telemetry: %w", err)
			}
			e.bytes = info.Size()
			s.waiting, s.bytes = append(s.waiting, e), s.bytes+e.bytes
		}
		s.last, s.taken = max(s.last, e.seq), max(s.taken, e.taken)
	}
	slices.SortFunc(s.waiting, func(a, b spooled) int { return int(a.seq - b.seq) })
	return s, nil
}

// notify wakes all that wait. Called with mu held.
func (s *spool) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Why a batch is not kept.
var (
	errSpoolFull   = errors.New("the spool is full")
	errSpoolClosed = errors.New("the server wants no more")
)

// add keeps a batch, made of one of the guest's requests, and gives it its number.
// When it returns it is on disk.
func (s *spool) add(b nimbus.TelemetryBatch, taken int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return errSpoolClosed
	case s.bytes+int64(len(b.Data)) > s.limit:
		return errSpoolFull
	}
	b.Seq = s.last + 1
	raw, err := proto.Marshal(wire.TelemetryBatch(b))
	if err != nil {
		return fmt.Errorf("encode telemetry: %w", err)
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("keep telemetry: %w", err)
	}
	e := spooled{b.Seq, taken, int64(len(raw))}
	if err := wholefile.WriteDurable(filepath.Join(s.dir, e.name(spoolBatch)), raw, 0o600); err != nil {
		return fmt.Errorf("keep telemetry: %w", err)
	}
	s.last, s.taken = b.Seq, max(s.taken, taken)
	s.waiting, s.bytes = append(s.waiting, e), s.bytes+e.bytes
	s.notify()
	return nil
}

// takenSeq is the newest of the guest's requests that is in.
func (s *spool) takenSeq() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken
}

// isClosed tells whether the server wants no more.
func (s *spool) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// next returns the oldest batches, about as many bytes as most and as many as go by
// one call, and what to wait for where there are none.
func (s *spool) next(most int64) (batches []*nimbusv1.TelemetryBatch, changed <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.waiting {
		if most -= e.bytes; most < 0 && len(batches) > 0 || len(batches) == nimbus.MaxTelemetryBatches {
			break
		}
		b, err := s.read(e)
		if err != nil {
			return nil, nil, err
		}
		batches = append(batches, b)
	}
	return batches, s.changed, nil
}

func (s *spool) read(e spooled) (*nimbusv1.TelemetryBatch, error) {
	raw, err := os.ReadFile(filepath.Join(s.dir, e.name(spoolBatch)))
	if err != nil {
		return nil, fmt.Errorf("read kept telemetry: %w", err)
	}
	b := &nimbusv1.TelemetryBatch{}
	if err := proto.Unmarshal(raw, b); err != nil {
		return nil, fmt.Errorf("read kept telemetry: %w", err)
	}
	return b, nil
}

// acknowledge frees batches up to and including seq.
func (s *spool) acknowledge(seq int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for n < len(s.waiting) && s.waiting[n].seq <= seq {
		n++
	}
	if n == 0 {
		return nil
	}
	defer s.notify()
	// The newest one first: without it, an agent that comes after would begin anew
	// with its numbers.
	newest := filepath.Join(s.dir, s.waiting[n-1].name(spoolDone))
	if err := wholefile.Write(newest, nil, 0o600); err != nil {
		return fmt.Errorf("free sent telemetry: %w", err)
	}
	old, err := filepath.Glob(filepath.Join(s.dir, "*"+spoolDone))
	if err != nil {
		return fmt.Errorf("free sent telemetry: %w", err)
	}
	old = slices.DeleteFunc(old, func(path string) bool { return path == newest })
	for _, e := range s.waiting[:n] {
		old = append(old, filepath.Join(s.dir, e.name(spoolBatch)))
		s.bytes -= e.bytes
	}
	s.waiting = s.waiting[n:]
	for _, path := range old {
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("free sent telemetry: %w", err)
		}
	}
	return nil
}

// close drops what waits, since the server wants no more, and counts its items:
// their senders heard that they are kept.
func (s *spool) close() error {
	s.mu.Lock()
	s.closed = true
	for _, e := range s.waiting {
		items := int64(1) // at least
		if b, err := s.read(e); err == nil {
			items = int64(b.GetItems())
		}
		s.dropped += items
	}
	last := s.last
	s.notify()
	s.mu.Unlock()
	return s.acknowledge(last)
}

// droppedItems is how many items were kept, and then dropped.
func (s *spool) droppedItems() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropped
}

// awaitEmpty waits until nothing waits to be sent. It returns false when ctx ended
// first.
func (s *spool) awaitEmpty(ctx context.Context) bool {
	for {
		s.mu.Lock()
		empty, changed := len(s.waiting) == 0 || s.closed, s.changed
		s.mu.Unlock()
		if empty {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}
