package near

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"
)

// claimStep is how many bytes are counted at once for a part of an upload, of
// which nobody knows how large it will be.
const claimStep = 1 << 20

// part is a file that is being written for the shelf. Its bytes are counted
// before they are written: those of an upload where they take nobody's place, as
// it is not known yet whether the origin takes them. It is one goroutine's at a time.
type part struct {
	shelf   *shelf
	file    *os.File // nil while it has no byte
	path    string
	sum     hash.Hash
	size    int64
	claimed int64 // of the shelf, where it was free
	aside   int64 // of what the shelf sets aside
	counted bool  // its bytes were, by who has it made
	over    bool  // its end, one way or the other
}

func (s *shelf) newPart() *part { return &part{shelf: s, path: s.draftPath(), sum: sha256.New()} }

// newReservedPart is one whose bytes were counted by the caller.
func (s *shelf) newReservedPart() *part {
	p := s.newPart()
	p.counted = true
	return p
}

// write adds bytes. Once it failed the part must be discarded.
func (p *part) write(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if !p.shelf.fits(p.size + int64(len(b))) {
		return errNoRoom
	}
	if need := p.size + int64(len(b)) - p.claimed - p.aside; need > 0 && !p.counted && !p.claim(blocks(max(need, claimStep))) {
		return errNoRoom
	}
	if p.file == nil {
		f, err := p.make()
		if errors.Is(err, fs.ErrNotExist) { // somebody has emptied the folder of copies
			err = os.MkdirAll(filepath.Dir(p.path), 0o700)
			if err == nil {
				f, err = p.make()
			}
		}
		if err != nil {
			return fmt.Errorf("make a piece: %w", err)
		}
		p.file = f
	}
	n, err := p.file.Write(b)
	p.size += int64(n)
	p.sum.Write(b[:n])
	if err != nil {
		return fmt.Errorf("write a piece: %w", err)
	}
	return nil
}

func (p *part) make() (*os.File, error) {
	return os.OpenFile(p.path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) //nolint:wrapcheck // write wraps it
}

// claim counts bytes of an upload.
func (p *part) claim(step int64) bool {
	switch {
	case p.shelf.claimAside(step):
		p.aside += step
	case p.shelf.claimFree(step):
		p.claimed += step
	default:
		return false
	}
	return true
}

// errNoRoom is why a content is not kept here, which is no fault of anybody's.
var errNoRoom = errors.New("there is no room for it on this host")

// end is the piece that was written. One of an upload was taken by the origin: room
// is made for it now, and its bytes are the caller's to give back.
func (p *part) end() (piece, error) {
	if p.file == nil {
		p.over = true
		return piece{}, nil
	}
	if err := p.file.Close(); err != nil {
		p.discard()
		return piece{}, fmt.Errorf("write a piece: %w", err)
	}
	if !p.counted {
		need := blocks(p.size) - p.claimed
		if need > 0 && !p.shelf.claim(need) {
			p.discard()
			return piece{}, errNoRoom
		}
		p.shelf.free(min(need, 0) * -1)
		p.shelf.freeAside(p.aside)
	}
	p.over = true
	return piece{Size: p.size, SHA256: hex.EncodeToString(p.sum.Sum(nil)), file: p.path}, nil
}

// discard removes a part that has not ended. It may be called at any time.
func (p *part) discard() {
	if p.over {
		return
	}
	p.over = true
	if p.file != nil {
		_ = p.file.Close() // it is removed
		p.shelf.throw(piece{file: p.path})
	}
	p.shelf.free(p.claimed)
	p.shelf.freeAside(p.aside)
}

// throw removes the file of a piece that nobody needs; its bytes are the caller's
// to give back.
func (s *shelf) throw(p piece) {
	if p.file == "" {
		return
	}
	if err := os.Remove(p.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("a file could not be removed from the cache of this host, its next start does it", "error", err)
	}
}
