package cache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"strings"

	"github.com/nimbus-ci/nimbus"
)

// Again says what becomes of a content whose key is there already.
type Again int

// What may become of it.
const (
	AgainReplaces Again = iota // it takes the place of the one that is there
	AgainKeeps                 // the one that is there stays, and is the answer
	AgainRefused               // it is a conflict
)

// Saving is a content that comes in one piece, and is there once it came whole.
type Saving struct {
	Key, Version string
	Meta         string // told again with it; up to MaxMeta bytes
	Size         int64  // -1 where it is not known
	Again        Again
	SHA256       string // that it must have, in lower-case hex; "" for any
	// Still says, once all has come, whether who saves it still may: a transfer takes
	// up to hours. nil: always.
	Still func(ctx context.Context) error
	// Match says whether the entry that is there, 0 for none, is the one that may be
	// replaced. nil: any is.
	Match func(id int64) bool
}

// savingVersion is where uploads are until they came whole: under names that
// nobody knows, so that those who save the same at once don't wait for each other.
const savingVersion = Own + "saving"

// whileSaving is where what is to be at a place is until it came whole. Names have
// no line breaks, by which the place is found in it.
func whileSaving(p Place) Place {
	p.Version, p.Key = savingVersion, newName()+"\n"+p.Version+"\n"+p.Key
	return p
}

// toBe is where an upload is to be once it came whole.
func toBe(p Place) Place {
	if _, rest, ok := strings.Cut(p.Key, "\n"); ok && p.Version == savingVersion {
		p.Version, p.Key, _ = strings.Cut(rest, "\n")
	}
	return p
}

// Save stores what r holds. Nobody finds it before it is whole; of a content that
// breaks off, or is refused, nothing is kept. kept tells that the entry is one
// that was there. Codes: invalid, forbidden, conflict, fenced where another is there
// than was named, too_large, rate_limited, and what Still says.
func (s *Service) Save(ctx context.Context, c Caller, what Saving, r io.Reader) (e Entry, kept bool, err error) {
	p, err := c.place(what.Key, what.Version)
	if err != nil {
		return Entry{}, false, err
	}
	if len(what.Meta) > MaxMeta {
		return Entry{}, false, nimbus.Errorf(nimbus.CodeTooLarge, "what is kept with the content has %d bytes, %d is the most", len(what.Meta), MaxMeta)
	}
	if what.Match != nil { // before all of it is taken in, and again in its place
		if err := s.matches(ctx, p, what.Match); err != nil {
			return Entry{}, false, err
		}
	}
	if what.Again != AgainReplaces {
		if e, kept, err = s.there(ctx, p, what, r); kept || err != nil {
			return e, kept, err
		}
	}
	u, err := s.reserve(ctx, c.JobID, whileSaving(p), max(what.Size, 0))
	if err != nil {
		return Entry{}, false, err
	}
	defer s.credits.end(u.ID)
	size, err := s.takeIn(ctx, u.ID, what, r)
	if err == nil && what.Still != nil {
		err = what.Still(ctx)
	}
	if err == nil {
		var loose []string
		e, kept, loose, err = s.store.ReplaceCache(ctx, u.ID, size, p, what.Meta, what.Again, what.Match)
		s.drop(ctx, p.OrgID, u.ID, loose...)
	}
	if err != nil {
		// If only the answer was lost, it is no upload any more, and stays.
		abandoned := s.after(ctx, func(ctx context.Context) error { return s.store.AbandonCache(ctx, u.ID) })
		err = errors.Join(fmt.Errorf("save a content: %w", err), abandoned)
	}
	s.removed() // the one before, or this one
	return e, kept, err
}

// there looks whether a content is there that will stay, before another is stored
// in vain: what comes is read and thrown away, as clients don't expect an answer
// before they have sent it. What is not what it says is refused all the same.
func (s *Service) there(ctx context.Context, p Place, what Saving, r io.Reader) (e Entry, kept bool, err error) {
	id, err := s.store.CacheAt(ctx, p)
	if err == nil {
		e, err = s.store.CacheEntry(ctx, id)
	}
	switch {
	case nimbus.ErrorCode(err) == nimbus.CodeNotFound:
		return Entry{}, false, nil
	case err != nil:
		return Entry{}, false, fmt.Errorf("look for an entry: %w", err)
	case what.Again == AgainRefused:
		return Entry{}, false, nimbus.Errorf(nimbus.CodeConflict, "the key already exists in the cache: an entry never changes")
	}
	// Who is told that it is there counts on it as who has just saved it.
	if kept, err = s.pin(ctx, e.ID); !kept || err != nil {
		return Entry{}, false, err
	}
	sum := sha256.New()
	if _, err := io.CopyN(sum, r, s.limits.Entry); err != nil && !errors.Is(err, io.EOF) {
		return Entry{}, false, fmt.Errorf("take a content that is there: %w", err)
	}
	if err := what.isOf(hex.EncodeToString(sum.Sum(nil))); err != nil {
		return Entry{}, false, err
	}
	return e, true, nil
}

// isOf fails unless a content with a SHA-256 is what was announced.
func (what Saving) isOf(sum string) error {
	if what.SHA256 != "" && what.SHA256 != sum {
		return nimbus.Errorf(nimbus.CodeInvalid, "the content has the SHA-256 %s, and %s was announced", sum, what.SHA256)
	}
	return nil
}

func (s *Service) matches(ctx context.Context, p Place, match func(int64) bool) error {
	id, err := s.store.CacheAt(ctx, p)
	if err == nil {
		_, err = s.store.CacheEntry(ctx, id) // an upload is none
	}
	if nimbus.ErrorCode(err) == nimbus.CodeNotFound {
		id, err = 0, nil
	}
	if err != nil {
		return fmt.Errorf("look for an entry: %w", err)
	}
	if !match(id) {
		return NotTheOne()
	}
	return nil
}

// NotTheOne is why an entry is not replaced. Codes: fenced.
func NotTheOne() error {
	return nimbus.Errorf(nimbus.CodeFenced, "what is under the key is not what was named: it was replaced or removed meanwhile")
}

// takeIn stores a content as blocks, as many as it needs, and in order.
func (s *Service) takeIn(ctx context.Context, id int64, what Saving, r io.Reader) (size int64, err error) {
	var sum hash.Hash // a block has its own, which is all of it if there is one alone
	if what.SHA256 != "" && (what.Size < 0 || what.Size > MaxBlock) {
		sum = sha256.New()
		r = io.TeeReader(r, sum)
	}
	var blocks []string
	var only string
	for end := false; !end; {
		part, from := int64(-1), io.LimitReader(r, MaxBlock)
		if what.Size >= 0 {
			part = min(what.Size-size, MaxBlock)
		}
		if end = what.Size >= 0 && size+part == what.Size; end {
			from = r // what is more than was said is found out
		}
		blocks = append(blocks, strconv.Itoa(len(blocks)))
		info, err := s.put(ctx, id, named+blocks[len(blocks)-1], from, part)
		if err != nil {
			return 0, err
		}
		size, only = size+info.Size, info.SHA256
		end = end || info.Size < MaxBlock
	}
	if sum != nil {
		only = hex.EncodeToString(sum.Sum(nil))
	}
	if err := what.isOf(only); err != nil {
		return 0, err
	}
	return size, s.Arrange(ctx, id, blocks)
}

// Delete removes what the caller may write, under a key exactly, where match, unless
// nil, says that it is the one that is meant. Who reads it goes on. Codes: forbidden,
// not_found, fenced where another is there, or none.
func (s *Service) Delete(ctx context.Context, c Caller, key, version string, match func(id int64) bool) error {
	p, err := c.place(key, version)
	if err != nil {
		return err
	}
	id, err := s.store.CacheAt(ctx, p)
	if match != nil && (nimbus.ErrorCode(err) == nimbus.CodeNotFound || err == nil && !match(id)) {
		return NotTheOne()
	}
	if nimbus.ErrorCode(err) == nimbus.CodeNotFound { // it speaks of uploads, too
		return nimbus.Errorf(nimbus.CodeNotFound, "there is no such entry in the cache")
	}
	if err != nil {
		return fmt.Errorf("look for an entry: %w", err)
	}
	return s.Remove(ctx, c.OrgID, id)
}
