// Package segment is the embedded log store.
//
// What is appended goes to one journal of all logs, which is synced before it is
// acknowledged; those who append at once share a sync. From memory, where readers
// find it meanwhile, each log's lines go in compressed frames to a file of its own
// (frame.go). A file of the journal is removed once all of its lines are in synced
// frames, and the second store, where there is one, has them (keep.go).
//
//	journal/NUMBER         the journal, see journal.go
//	journal/state          how far it is done with
//	ORG/ATTEMPT.log        frames of one attempt, or of the recording of a shell
//
// The journal's name comes before those of orgs: a backup that copies files in
// order has lines at least once.
package segment

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
)

const (
	// maxAppend bounds one append: 4 MiB of text in a message of the API.
	maxAppend = 16 << 20
	// maxOpen is how many files of logs are kept open; more are closed, the oldest
	// first.
	maxOpen = 256
	// maxPending is how much of all logs waits in memory; above it whoever appends
	// writes its frame at once, however small.
	maxPending = 64 << 20
	// idle is how long a log may be silent before its lines leave memory.
	idle = time.Minute
	// zstdWindow keeps the memory of encoders and decoders small.
	zstdWindow = 512 << 10
	journalDir = "journal"
	extension  = ".log"
)

// Store keeps logs in a directory. It implements logs.Store, logs.Looker and
// logs.Searcher, and logs.Outbox when it was opened WithOutbox.
type Store struct {
	dir         string
	maxBytes    int64
	disk        disk
	log         *slog.Logger
	journal     *journal
	outbox      bool
	journalSize int64
	searchTime  time.Duration // of a page
	encoder     *zstd.Encoder
	decoder     *zstd.Decoder
	recent      *recent

	mu   sync.Mutex
	open map[nimbus.LogKey]*attempt
	used *list.List // of *attempt, the last used first

	handles  atomic.Int64 // open files of logs
	pending  atomic.Int64 // bytes in memory of all logs
	newest   atomic.Int64 // the file of the journal that was written to last
	settling sync.Mutex
	wake     chan struct{}
	stop     chan struct{}
	keeping  sync.WaitGroup
}

var (
	_ logs.Store    = (*Store)(nil)
	_ logs.Looker   = (*Store)(nil)
	_ logs.Searcher = (*Store)(nil)
	_ logs.Outbox   = (*Store)(nil)
)

// Option changes how a store is opened.
type Option func(*Store)

// WithOutbox keeps the journal until a second store has what is in it.
func WithOutbox() Option { return func(s *Store) { s.outbox = true } }

// WithLog says where it is told what goes wrong in the background. Default: nowhere.
func WithLog(log *slog.Logger) Option { return func(s *Store) { s.log = log } }

// Open opens the store in dir, and brings into logs what a crash left in the
// journal. A log may grow to maxBytes of stored bytes.
func Open(dir string, maxBytes int64, options ...Option) (*Store, error) {
	return openOn(osDisk{}, dir, maxBytes, journalSize, options...)
}

func openOn(d disk, dir string, maxBytes, size int64, options ...Option) (_ *Store, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("open log store: %w", err)
		}
	}()
	s := &Store{
		dir: dir, maxBytes: maxBytes, disk: d, log: slog.New(slog.DiscardHandler), journalSize: size, searchTime: searchTime, recent: newRecent(),
		open: map[nimbus.LogKey]*attempt{}, used: list.New(), wake: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	for _, o := range options {
		o(s)
	}
	if err := d.mkdir(filepath.Join(dir, journalDir)); err != nil {
		return nil, err
	}
	cpus := runtime.GOMAXPROCS(0)
	if s.encoder, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithWindowSize(zstdWindow), zstd.WithEncoderConcurrency(cpus)); err != nil {
		return nil, err
	}
	if s.decoder, err = zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxAppend*2), zstd.WithDecoderConcurrency(cpus)); err != nil {
		return nil, err
	}
	if s.journal, err = openJournal(d, filepath.Join(dir, journalDir), size); err != nil {
		return nil, err
	}
	if err := s.replay(); err != nil {
		return nil, errors.Join(err, s.journal.close())
	}
	s.keeping.Go(s.keep)
	return s, nil
}

// Close writes what is in memory into frames and closes all files.
func (s *Store) Close() error {
	select {
	case <-s.stop:
		return nil // it is closed
	default:
	}
	close(s.stop)
	s.keeping.Wait()
	err := s.settle(everything)
	return errors.Join(err, s.shut())
}

// shut closes files and nothing else.
func (s *Store) shut() error {
	errs := []error{s.journal.close()}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.open {
		errs = append(errs, a.closeFile())
	}
	clear(s.open)
	s.used.Init()
	s.decoder.Close()
	return errors.Join(append(errs, s.encoder.Close())...)
}

// checkKey: org and attempt become file names, and both are checked, whoever made
// them.
func checkKey(key nimbus.LogKey) error {
	if err := nimbus.CheckID(nimbus.PrefixOrg, key.OrgID); err != nil {
		return err
	}
	prefix := nimbus.PrefixAttempt
	if isRecording(key) {
		prefix = nimbus.PrefixShell
	}
	return nimbus.CheckID(prefix, key.AttemptID)
}

// isRecording tells whether a log is what passed in a shell: that is for operators,
// and so neither searched nor handed on.
func isRecording(key nimbus.LogKey) bool {
	return strings.HasPrefix(key.AttemptID, nimbus.PrefixShell)
}

// Append implements logs.Store.
func (s *Store) Append(_ context.Context, key nimbus.LogKey, lines []nimbus.Line) (int64, error) {
	a, err := s.lockForWriting(key)
	if err != nil {
		return 0, err
	}
	defer s.release(a)
	defer a.writing.Unlock()
	last := a.end() // only writers change it
	for len(lines) > 0 && lines[0].Seq <= last {
		lines = lines[1:]
	}
	if len(lines) == 0 || lines[0].Seq != last+1 {
		return last, nil
	}
	if err := s.checkAppend(a, lines); err != nil {
		return last, err
	}
	if err := a.reserve(s); err != nil {
		return last, err
	}
	number, err := s.journal.append(record(kindLines, key, lines))
	if err != nil {
		a.unreserve()
		return last, fmt.Errorf("append to log: %w", err)
	}
	s.add(a, lines, number)
	if s.newest.Swap(number) != number {
		s.nudge()
	}
	return a.end(), nil
}

func (s *Store) checkAppend(a *attempt, lines []nimbus.Line) error {
	if s.journal.number()-s.journal.current().Sealed > maxBehind {
		s.nudge()
		return nimbus.Errorf(nimbus.CodeUnavailable, "lines can't be written to their logs as fast as they come: see the server's log")
	}
	if a.stored() > s.maxBytes {
		return nimbus.Errorf(nimbus.CodeTooLarge, "the log is larger than %d bytes", s.maxBytes)
	}
	size := 0
	for i, line := range lines {
		if line.Seq != lines[0].Seq+int64(i) {
			return nimbus.Errorf(nimbus.CodeInvalid, "line %d follows line %d", line.Seq, lines[0].Seq+int64(i)-1)
		}
		size += len(line.Text) + lineOverhead
	}
	if size > maxAppend {
		return nimbus.Errorf(nimbus.CodeTooLarge, "%d bytes of lines in one call, at most %d", size, maxAppend)
	}
	return nil
}

// Delete implements logs.Store. That it was deleted is in the journal before it is:
// what the journal has of it is not brought back by a crash.
func (s *Store) Delete(_ context.Context, key nimbus.LogKey) error {
	a, err := s.lockForWriting(key)
	if err != nil {
		return err
	}
	defer s.release(a)
	defer a.writing.Unlock()
	if a.end() == 0 {
		return nil
	}
	if _, err := s.journal.append(record(kindDelete, key, nil)); err != nil {
		return fmt.Errorf("delete log: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	s.pending.Add(-int64(a.pending.size()))
	a.empty()
	if err := s.removeFile(a); err != nil {
		a.torn = true // what is left of it is cut off before anything is written
		return fmt.Errorf("delete log: %w", err)
	}
	return nil
}

// removeFile removes a log's file, for good when it returns.
func (s *Store) removeFile(a *attempt) error {
	s.recent.forget(a)
	if err := a.closeFile(); err != nil {
		return err
	}
	if err := s.disk.remove(a.path); err != nil {
		return err
	}
	return s.disk.syncDir(filepath.Dir(a.path))
}

// lockForWriting returns a log that nobody else appends to until its lock writing
// is released. The caller releases the log, too.
func (s *Store) lockForWriting(key nimbus.LogKey) (*attempt, error) {
	a, err := s.acquire(key)
	if err != nil {
		return nil, err
	}
	a.writing.Lock()
	return a, nil
}

// acquire returns a log, which stays in memory until it is released.
func (s *Store) acquire(key nimbus.LogKey) (*attempt, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	s.mu.Lock()
	a := s.open[key]
	if a == nil {
		a = &attempt{store: s, key: key, path: filepath.Join(s.dir, key.OrgID, key.AttemptID+extension)}
		a.place = s.used.PushFront(a)
		s.open[key] = a
	}
	s.used.MoveToFront(a.place)
	a.refs++
	s.evict()
	s.mu.Unlock()
	if err := a.load(); err != nil {
		s.release(a)
		return nil, err
	}
	return a, nil
}

// release gives a log back. One of which there is nothing to remember is forgotten.
func (s *Store) release(a *attempt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.refs--; a.refs == 0 && a.nothing() {
		s.forget(a)
	}
}

// forget drops a log from memory. Called with mu held, of one that nobody uses.
func (s *Store) forget(a *attempt) {
	if err := a.closeFile(); err != nil { // what it wrote is synced
		s.log.Warn("a file of a log could not be closed", "error", err)
	}
	s.used.Remove(a.place)
	delete(s.open, a.key)
}

// evictSteps bounds what one call does about too many open logs.
const evictSteps = 16

// evict closes what was not used for longest. Logs whose lines are not all in synced
// frames stay in memory, without their file. Called with mu held.
func (s *Store) evict() {
	for range evictSteps {
		if s.used.Len() <= maxOpen && s.handles.Load() <= maxOpen {
			return
		}
		a, ok := s.used.Back().Value.(*attempt)
		if !ok {
			return
		}
		switch {
		case a.refs > 0:
		case a.settled():
			s.forget(a)
			continue
		default:
			if err := a.closeFile(); err != nil {
				s.log.Warn("a file of a log could not be closed", "error", err)
			}
		}
		s.used.MoveToFront(a.place)
	}
}
