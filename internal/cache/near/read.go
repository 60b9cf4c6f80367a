package near

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strconv"
)

// source is a content of which some is on this host's disk.
type source interface {
	// open opens the file that has a byte of the content, at that byte, and tells
	// how many bytes from there on are in it now: at least one. It waits for one
	// that is on its way, while ctx lasts.
	open(ctx context.Context, at int64) (f *os.File, n int64, err error)
	// leave is called once, by who has it.
	leave()
}

// whole is a content on the shelf.
type whole struct {
	shelf *shelf
	held  *held
}

func (w whole) leave() { w.shelf.giveBack(w.held) }

func (w whole) open(ctx context.Context, at int64) (*os.File, int64, error) {
	h := w.held
	i := sort.Search(len(h.starts), func(i int) bool { return h.starts[i] > at }) - 1
	if i < 0 || at >= h.size {
		return nil, 0, fmt.Errorf("a content of %d bytes has no byte %d", h.size, at)
	}
	f, err := w.shelf.open(ctx, h, i)
	if err != nil {
		return nil, 0, err
	}
	skip := at - h.starts[i]
	if _, err := f.Seek(skip, io.SeekStart); err != nil {
		return nil, 0, errors.Join(fmt.Errorf("find a byte: %w", err), f.Close())
	}
	return f, h.pieces[i].Size - skip, nil
}

// open opens a piece of a content that was taken. One that an earlier process
// wrote is read through first: a power cut may have left it with other bytes. A
// content that has a broken piece is dropped.
func (s *shelf) open(ctx context.Context, h *held, i int) (*os.File, error) {
	f, err := os.Open(filepath.Join(h.dir, strconv.Itoa(i)))
	if err != nil {
		s.drop(h, err)
		return nil, fmt.Errorf("open a piece: %w", err)
	}
	if err := s.examine(ctx, h, i, f); err != nil {
		if ctx.Err() == nil {
			s.drop(h, err)
		}
		return nil, errors.Join(fmt.Errorf("look through a piece: %w", err), f.Close())
	}
	return f, nil
}

var errBroken = errors.New("its bytes are not those that were written")

// examine fails unless a piece is as it was written.
func (s *shelf) examine(ctx context.Context, h *held, i int, f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err //nolint:wrapcheck // open wraps it
	}
	if info.Size() != h.pieces[i].Size {
		return errBroken
	}
	s.mu.Lock()
	sound := h.sound[i]
	s.unlock()
	if sound {
		return nil
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, untilDone{ctx, f}); err != nil {
		return err //nolint:wrapcheck // open wraps it
	}
	if hex.EncodeToString(sum.Sum(nil)) != h.pieces[i].SHA256 {
		return errBroken
	}
	s.mu.Lock()
	defer s.unlock()
	h.sound[i] = true
	return nil
}

// untilDone reads until somebody has gone for whom it is read.
type untilDone struct {
	ctx context.Context //nolint:containedctx // an io.Reader gets none
	r   io.Reader
}

// Read implements io.Reader.
func (u untilDone) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err //nolint:wrapcheck // it says all
	}
	return u.r.Read(p) //nolint:wrapcheck // an io.Reader's error is its own
}
