package near

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nimbus-ci/nimbus/internal/transfer"
)

const (
	// maxStages is how many uploads are kept at once, and stageIdle for how long
	// without a word of them.
	maxStages = 256
	stageIdle = 15 * time.Minute
	// maxParts is how many parts there are of all of them, and maxLists how many bytes
	// of lists of blocks that are under way: the longest may have six million.
	maxParts = 200_000
	maxLists = 32 << 20
)

// Prefixes of what a part of an upload is called. What comes by position is told
// by number; a content that is one part has the name blockPart alone.
const (
	blockPart = "b:"
	rangePart = "r:"
)

// put passes an upload on, and keeps what passes: it counts once the origin has
// taken it.
func (t *tier) put(w http.ResponseWriter, r *http.Request) {
	p, ok := t.passing(r)
	if !ok {
		t.next.ServeHTTP(w, r)
		return
	}
	defer p.discard()
	p.from, r.Body = r.Body, p
	t.next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), passingKey{}, p)))
}

// passing says which part of an upload a request carries.
func (t *tier) passing(r *http.Request) (*passing, bool) {
	p := &passing{announced: r.ContentLength, refused: &t.tally.refused, lists: &t.lists, log: func(err error) { t.log.WarnContext(r.Context(), "an upload is not kept on this host", "error", err) }}
	query, err := url.ParseQuery(r.URL.RawQuery)
	switch {
	case err != nil:
		return nil, false
	case strings.HasPrefix(r.URL.Path, "/_cache/uploads/"):
		switch query.Get("comp") {
		case "":
			p.key = blockPart
		case "block":
			id, err := transfer.BlockID(strings.ReplaceAll(query.Get("blockid"), " ", "+"))
			if err != nil {
				return nil, false
			}
			p.key = blockPart + id
		case "blocklist":
			p.list = &bytes.Buffer{}
			return p, true
		}
	case strings.HasPrefix(r.URL.Path, "/_apis/artifactcache/caches/"):
		at, err := transfer.ParseContentRange(r.Header.Get("Content-Range"))
		if err != nil {
			return nil, false
		}
		p.key = rangePart + strconv.FormatInt(at.Offset, 10)
	case strings.HasPrefix(r.URL.Path, "/cache/"):
		p.key = blockPart
	}
	p.part = t.shelf.newPart()
	if fits := t.shelf.fits(r.ContentLength); p.key != "" && !fits {
		t.tally.refused.Add(1)
		return nil, false
	}
	return p, p.key != ""
}

// passing is a body on its way to the origin. It implements io.ReadCloser.
type passing struct {
	from      io.ReadCloser
	key       string
	announced int64 // bytes, -1 for unknown
	log       func(error)
	refused   *atomic.Int64 // for want of room

	mu   sync.Mutex // who sends may still read while its answer comes
	part *part
	list *bytes.Buffer // of a list of blocks
	// lists are the bytes of all lists that are under way, and listed those of this.
	lists  *atomic.Int64
	listed int64
	came   int64
	full   bool // its end came
	lost   bool // it is not kept
}

type passingKey struct{}

// Read implements io.Reader.
func (p *passing) Read(b []byte) (int, error) {
	n, err := p.from.Read(b)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.came += int64(n)
	p.full = p.full || errors.Is(err, io.EOF) || p.announced >= 0 && p.came == p.announced
	if p.lost || n == 0 {
		return n, err //nolint:wrapcheck // an io.Reader's error is its own
	}
	if failed := p.keep(b[:n]); failed != nil { // who uploads is not bothered with that
		p.lose()
		if errors.Is(failed, errNoRoom) {
			p.refused.Add(1)
		} else {
			p.log(failed)
		}
	}
	return n, err //nolint:wrapcheck // an io.Reader's error is its own
}

func (p *passing) keep(b []byte) error {
	if p.list == nil {
		return p.part.write(b)
	}
	more := int64(len(b))
	if p.listed+more > transfer.MaxBlockList {
		return errNoRoom
	}
	p.listed += more
	if p.lists.Add(more) > maxLists {
		return errNoRoom
	}
	p.list.Write(b)
	return nil
}

// Close implements io.Closer.
func (p *passing) Close() error { return p.from.Close() } //nolint:wrapcheck // an io.Closer's error is its own

// lose gives a part up. The caller holds the lock.
func (p *passing) lose() {
	p.lost = true
	if p.list != nil {
		p.list = &bytes.Buffer{} // it is known what this is, and its bytes are let go
		p.lists.Add(-p.listed)
		p.listed = 0
	}
	if p.part != nil {
		p.part.discard()
	}
}

// discard ends a part that the origin has not taken.
func (p *passing) discard() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lose()
}

// piece is what has come whole.
func (p *passing) piece() (piece, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lost || !p.full && p.announced != 0 || p.part == nil {
		return piece{}, false
	}
	made, err := p.part.end()
	switch {
	case errors.Is(err, errNoRoom):
		p.refused.Add(1)
	case err != nil:
		p.log(err)
	}
	p.lost = true
	return made, err == nil
}

// blocks is the list that has come whole.
func (p *passing) blocks() ([]string, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lost || !p.full || p.list == nil {
		return nil, false
	}
	blocks, err := transfer.ReadBlockList(p.list, transfer.MaxBlocks)
	return blocks, err == nil
}

// answered looks at what the origin says of an upload, and takes out what it says
// to this host alone.
func (t *tier) answered(answer *http.Response) error {
	entry, isEntry := transfer.TakeEntry(answer.Header)
	upload, isUpload := transfer.TakeUpload(answer.Header)
	if answer.Request.Method == http.MethodGet && isEntry && answer.StatusCode < 300 {
		answer.Body = counted{answer.Body, &t.tally.passedBytes}
	}
	if answer.StatusCode < 200 || answer.StatusCode > 299 || answer.Request.Method == http.MethodGet || answer.Request.Method == http.MethodHead {
		return nil
	}
	p, _ := answer.Request.Context().Value(passingKey{}).(*passing)
	if isUpload && p != nil {
		if n, ok := nameOf(upload); ok {
			t.staged(n, p)
		}
	}
	if n, ok := nameOf(entry); isEntry && ok {
		t.saved(n, entry, p)
	}
	return nil
}

// staged keeps a part that the origin has taken until its upload is an entry.
func (t *tier) staged(n name, p *passing) {
	if p.list != nil {
		blocks, ok := p.blocks()
		t.stages.arrange(n, blocks, ok)
		return
	}
	made, ok := p.piece()
	t.stages.add(t.shelf, n, p.key, made, ok)
}

// saved puts on the shelf what has become an entry, if the origin has the same
// bytes: it may have got others past this host, or from here without that its answer
// came back.
func (t *tier) saved(n name, e transfer.Entry, p *passing) {
	var pieces []piece
	var reserved int64
	var ok bool
	if p == nil {
		pieces, reserved, ok = t.stages.take(n)
	} else {
		made, whole := p.piece() // it is all of it
		pieces, reserved, ok = []piece{made}, blocks(made.Size), whole
	}
	if !ok || e.Size == 0 || !same(pieces, e) {
		for _, part := range pieces {
			t.shelf.throw(part)
		}
		t.shelf.free(reserved)
		return
	}
	pieces = slices.DeleteFunc(pieces, func(part piece) bool { return part.Size == 0 })
	if err := t.shelf.put(n, pieces, reserved); err != nil {
		t.log.Warn("what was saved is not kept on this host", "entry", n.id, "error", err)
		for _, part := range pieces {
			t.shelf.throw(part)
		}
		return
	}
	t.tally.saved.Add(1)
}

// same tells whether pieces are the blocks of which an entry is.
func same(pieces []piece, e transfer.Entry) bool {
	came, digest := int64(0), transfer.NewDigest()
	for _, part := range pieces {
		came += part.Size
		digest.Add(part.Size, part.SHA256)
	}
	return came == e.Size && digest.String() == e.Digest
}

// stages are uploads whose parts the origin has taken.
type stages struct {
	mu    sync.Mutex
	of    map[name]*stage
	parts int
}

type stage struct {
	shelf  *shelf
	parts  map[string]piece
	bytes  int64
	order  []string // nil until a list came
	broken bool     // something of it is not here, or not known for sure
	last   time.Time
}

// at is the stage of an upload. The caller holds the lock.
func (s *stages) at(n name) *stage {
	g, ok := s.of[n]
	if !ok {
		if len(s.of) >= maxStages {
			s.dropIdlest()
		}
		g = &stage{parts: map[string]piece{}}
		s.of[n] = g
	}
	g.last = time.Now()
	return g
}

// add notes a part. One that came before with other bytes, of which the origin
// alone knows which it has, breaks all.
func (s *stages) add(sh *shelf, n name, key string, p piece, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.at(n)
	g.shelf = sh
	before, twice := g.parts[key]
	g.bytes += p.Size
	if !g.broken && (s.parts >= maxParts || !sh.fits(g.bytes)) {
		g.broken = true
		sh.tally.refused.Add(1)
	}
	g.broken = g.broken || !ok || twice && (before.SHA256 != p.SHA256 || before.Size != p.Size)
	if g.broken || twice {
		sh.throw(p)
		sh.free(blocks(p.Size))
	} else {
		g.parts[key] = p
		s.parts++
	}
	if g.broken {
		s.clear(g)
	}
}

// arrange notes the order of blocks.
func (s *stages) arrange(n name, order []string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.at(n)
	if !ok || g.order != nil && !slices.Equal(g.order, order) {
		g.broken = true
	}
	g.order = order
}

// take is all of an upload, in order; the bytes that were claimed for it are the
// caller's. ok is false for what is not here whole.
func (s *stages) take(n name) (pieces []piece, reserved int64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, there := s.of[n]
	if !there {
		return nil, 0, false
	}
	delete(s.of, n)
	order, ok := g.ordered()
	for _, key := range order {
		p := g.parts[key]
		delete(g.parts, key)
		s.parts--
		pieces, reserved = append(pieces, p), reserved+blocks(p.Size)
	}
	s.clear(g) // what is no part of it
	return pieces, reserved, ok
}

// ordered are the names of the parts that make the content.
func (g *stage) ordered() (order []string, ok bool) {
	if g.broken {
		return nil, false
	}
	if g.order != nil {
		for _, id := range g.order {
			if _, came := g.parts[blockPart+id]; !came {
				return nil, false
			}
			order = append(order, blockPart+id)
		}
		return order, true
	}
	if _, one := g.parts[blockPart]; one && len(g.parts) == 1 {
		return []string{blockPart}, true
	}
	type at struct {
		key  string
		from int64
	}
	var parts []at
	for key := range g.parts {
		offset, isRange := strings.CutPrefix(key, rangePart)
		from, err := strconv.ParseInt(offset, 10, 64)
		if !isRange || err != nil {
			return nil, false
		}
		parts = append(parts, at{key, from})
	}
	slices.SortFunc(parts, func(a, b at) int { return cmp.Compare(a.from, b.from) })
	end := int64(0)
	for _, p := range parts {
		if p.from != end {
			return nil, false
		}
		order, end = append(order, p.key), end+g.parts[p.key].Size
	}
	return order, true
}

// clear removes parts that nobody needs. The caller holds the lock.
func (s *stages) clear(g *stage) {
	for _, p := range g.parts {
		g.shelf.throw(p)
		g.shelf.free(blocks(p.Size))
	}
	s.parts -= len(g.parts)
	clear(g.parts)
}

// giveUp drops uploads of which no word came since.
func (s *stages) giveUp(since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n, g := range s.of {
		if g.last.Before(since) {
			delete(s.of, n)
			s.clear(g)
		}
	}
}

// dropIdlest makes room for another. The caller holds the lock.
func (s *stages) dropIdlest() {
	var idlest name
	for n, g := range s.of {
		if i, ok := s.of[idlest]; !ok || g.last.Before(i.last) {
			idlest = n
		}
	}
	if g, ok := s.of[idlest]; ok {
		delete(s.of, idlest)
		s.clear(g)
	}
}
