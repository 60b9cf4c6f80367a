package segment

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
	"github.com/nimbus-ci/nimbus/internal/logs/logstest"
)

var errDisk = errors.New("the disk is broken")

// badDisk fails from some operation on, for a while or for good, and knows what would
// survive a power cut.
type badDisk struct {
	osDisk
	mu       sync.Mutex
	left     int // operations until it fails
	failures int // how many fail then
	synced   map[string][]byte
	named    map[string]bool   // names that survive
	removed  map[string][]byte // files whose removal does not survive
}

func newBadDisk(left, failures int) *badDisk {
	return &badDisk{left: left, failures: failures, synced: map[string][]byte{}, named: map[string]bool{}, removed: map[string][]byte{}}
}

func (d *badDisk) fails() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.left--
	return d.left < 0 && d.left >= -d.failures
}

func (d *badDisk) openFile(path string, flag int) (file, error) {
	if flag&os.O_CREATE != 0 && d.fails() {
		return nil, errDisk
	}
	f, err := d.osDisk.openFile(path, flag)
	if err != nil {
		return nil, err
	}
	return badFile{f, d, path}, nil
}

func (d *badDisk) remove(path string) error {
	if d.fails() {
		return errDisk
	}
	d.mu.Lock()
	if d.named[path] {
		d.removed[path] = d.synced[path]
	}
	delete(d.named, path)
	delete(d.synced, path)
	d.mu.Unlock()
	return d.osDisk.remove(path)
}

func (d *badDisk) syncDir(dir string) error {
	if d.fails() {
		return errDisk
	}
	names, err := d.names(dir)
	d.mu.Lock()
	defer d.mu.Unlock()
	for path := range d.removed {
		if filepath.Dir(path) == dir {
			delete(d.removed, path)
		}
	}
	for _, name := range names {
		d.named[filepath.Join(dir, name)] = true
	}
	return err
}

func (d *badDisk) replace(path string, content []byte) error {
	if d.fails() {
		return errDisk
	}
	d.mu.Lock()
	d.synced[path], d.named[path] = bytes.Clone(content), true
	d.mu.Unlock()
	return d.osDisk.replace(path, content)
}

type badFile struct {
	file
	disk *badDisk
	path string
}

func (f badFile) WriteAt(p []byte, at int64) (int, error) {
	if f.disk.fails() {
		n, _ := f.file.WriteAt(p[:len(p)/2], at) // the rest did not fit
		return n, errDisk
	}
	return f.file.WriteAt(p, at)
}

func (f badFile) Sync() error {
	if f.disk.fails() {
		return errDisk
	}
	content, err := os.ReadFile(f.path)
	if err == nil {
		f.disk.mu.Lock()
		f.disk.synced[f.path] = content
		f.disk.mu.Unlock()
	}
	return nil
}

func (f badFile) Truncate(n int64) error {
	if f.disk.fails() {
		return errDisk
	}
	return f.file.Truncate(n)
}

// cutPower returns a folder that has what survives of dir, and by chance more.
func (d *badDisk) cutPower(t *testing.T, dir string, chance *rand.Rand) string {
	t.Helper()
	out := t.TempDir()
	d.mu.Lock()
	defer d.mu.Unlock()
	keep := func(path string, content []byte) {
		to := filepath.Join(out, strings.TrimPrefix(path, dir))
		if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o700), os.WriteFile(to, content, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for path, content := range d.removed {
		if chance.IntN(2) == 0 {
			keep(path, content)
		}
	}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.HasSuffix(path, ".part") {
			return err
		}
		// Who syncs a file of an org must have synced the names of both.
		if (!d.named[path] || strings.HasSuffix(path, extension) && !d.named[filepath.Dir(path)]) && chance.IntN(2) == 0 {
			return nil
		}
		live, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		synced := d.synced[path]
		if !bytes.HasPrefix(live, synced) {
			keep(path, synced)
			return nil
		}
		content := live[:len(synced)+chance.IntN(len(live)-len(synced)+1)]
		if len(content) > len(synced) && chance.IntN(2) == 0 {
			clear(content[len(synced)+chance.IntN(len(content)-len(synced)):]) // as long as it was, and not written
		}
		keep(path, content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestPowerCuts: whatever breaks and whenever the power goes, each acknowledged line is
// there afterwards, in its place, and the outbox hands it on.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		failures := 1 << 30
		if rapid.Bool().Draw(rt, "for a while") {
			failures = rapid.IntRange(1, 5).Draw(rt, "failures")
		}
		d := newBadDisk(rapid.IntRange(0, 150).Draw(rt, "left"), failures)
		dir := t.TempDir()
		s, err := openOn(d, dir, 1<<30, 2<<10, WithOutbox())
		if err != nil {
			return // it broke before there was anything
		}
		w := &powered{store: s, acked: map[nimbus.LogKey]int64{}, shipped: map[nimbus.LogKey]map[int64]bool{}}
		for range 4 {
			w.keys = append(w.keys, key())
		}
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			w.step(rt)
		}
		abandon(t, s)
		seed := rapid.Uint64().Draw(rt, "seed")
		cut := d.cutPower(t, dir, rand.New(rand.NewPCG(seed, seed)))
		s, err = openOn(osDisk{}, cut, 1<<30, 2<<10, WithOutbox())
		if err != nil {
			rt.Fatalf("after the power cut: %v", err)
		}
		w.store = s
		w.check(rt)
		for _, k := range w.keys { // and it goes on
			next, err := s.Acked(context.Background(), k)
			if err != nil {
				rt.Fatal(err)
			}
			if acked, err := s.Append(context.Background(), k, logstest.Lines(next+1, next+3)); err != nil || acked != next+3 {
				rt.Fatalf("%d, %v", acked, err)
			}
			w.acked[k] = next + 3
		}
		if err := s.Close(); err != nil {
			rt.Fatal(err)
		}
		if s, err = openOn(osDisk{}, cut, 1<<30, 2<<10, WithOutbox()); err != nil {
			rt.Fatal(err)
		}
		w.store = s
		w.check(rt)
		w.handedOn(rt)
		s.Close()
	})
}

// powered is what is known of a store whose power is cut.
type powered struct {
	store   *Store
	keys    []nimbus.LogKey
	acked   map[nimbus.LogKey]int64
	unsure  []nimbus.LogKey // a deletion of which failed
	shipped map[nimbus.LogKey]map[int64]bool
}

func (w *powered) step(t *rapid.T) {
	ctx, k := context.Background(), rapid.SampledFrom(w.keys).Draw(t, "log")
	switch rapid.IntRange(0, 9).Draw(t, "step") {
	case 0:
		if err := w.store.settle(w.store.journal.number() - 1); err != nil && !errors.Is(err, errDisk) {
			t.Fatal(err)
		}
	case 1:
		if err := w.store.tend(time.Now().Add(2 * idle)); err != nil && !errors.Is(err, errDisk) {
			t.Fatal(err)
		}
	case 2:
		w.ship(t)
	case 3:
		w.delete(t, k)
	default:
		next, err := w.store.Acked(ctx, k)
		if err != nil {
			t.Fatal(err)
		}
		lines := logstest.Lines(max(1, next-1), next+int64(rapid.IntRange(1, 30).Draw(t, "lines")))
		acked, err := w.store.Append(ctx, k, lines)
		if err != nil && !errors.Is(err, errDisk) {
			t.Fatal(err)
		}
		if err == nil && acked != lines[len(lines)-1].Seq {
			t.Fatalf("acknowledged %d", acked)
		}
		if err == nil {
			w.acked[k] = acked
		}
	}
}

func (w *powered) delete(t *rapid.T, k nimbus.LogKey) {
	switch err := w.store.Delete(context.Background(), k); {
	case err == nil:
		w.acked[k] = 0
	case errors.Is(err, errDisk):
		w.unsure = append(w.unsure, k)
	default:
		t.Fatal(err)
	}
	delete(w.shipped, k)
}

func (w *powered) ship(t *rapid.T) {
	b, ok, err := w.store.Next(context.Background())
	if err == nil && ok {
		err = w.store.Shipped(context.Background(), b.ID)
	}
	if err != nil && !errors.Is(err, errDisk) {
		t.Fatal(err)
	}
	if err == nil && ok {
		w.took(b)
	}
}

func (w *powered) took(b logs.Batch) {
	for _, part := range b.Logs {
		if w.shipped[part.Key] == nil {
			w.shipped[part.Key] = map[int64]bool{}
		}
		for _, l := range part.Lines {
			w.shipped[part.Key][l.Seq] = true
		}
	}
}

func (w *powered) check(t *rapid.T) {
	for _, k := range w.keys {
		got, err := w.store.Read(context.Background(), k, 1, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for i, l := range got {
			if want := logstest.Lines(int64(i)+1, int64(i)+1)[0]; l != want {
				t.Fatalf("line %d is %+v", i+1, l)
			}
		}
		if w.isUnsure(k) {
			continue
		}
		if n := int64(len(got)); n < w.acked[k] {
			t.Fatalf("%d lines of %d are there", n, w.acked[k])
		}
	}
}

func (w *powered) isUnsure(k nimbus.LogKey) bool {
	for _, other := range w.unsure {
		if other == k {
			return true
		}
	}
	return false
}

func (w *powered) handedOn(t *rapid.T) {
	for {
		b, ok, err := w.store.Next(context.Background())
		if err == nil && ok {
			err = w.store.Shipped(context.Background(), b.ID)
		}
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		w.took(b)
	}
	for _, k := range w.keys {
		for seq := int64(1); seq <= w.acked[k] && !w.isUnsure(k); seq++ {
			if !w.shipped[k][seq] {
				t.Fatalf("line %d of %d was not handed on", seq, w.acked[k])
			}
		}
	}
}
