package near

import (
	"io"
	"sync/atomic"

	"github.com/nimbus-ci/nimbus"
)

// Figures are what the copies on a host did since it started, and what they take.
type Figures struct {
	Hits         int64 // contents that were sent from here
	Joined       int64 // by who waited for one that somebody else had fetched
	Misses       int64 // contents that were fetched
	Passed       int64 // answers with a content that was not kept, or a part of one that isn't here
	SentBytes    int64 // from here
	FetchedBytes int64 // from the origin, to keep
	PassedBytes  int64 // of contents, from the origin and not kept
	Saved        int64 // contents that were kept as they were saved
	Evicted      int64
	EvictedBytes int64
	Refused      int64 // contents, and parts of what was saved, that were not kept for want of room
	Corrupt      int64 // contents that were dropped because their bytes had changed
	Entries      int64 // that are here now
	Bytes        int64 // that they take, with what is being written
	Limit        int64 // bytes that they may take
}

// tally counts.
type tally struct {
	hits, joined, misses, passed, sent, fetched, passedBytes, saved, evicted, evictedBytes, refused, corrupt atomic.Int64
}

func (t *tally) figures() Figures {
	return Figures{
		Hits: t.hits.Load(), Joined: t.joined.Load(), Misses: t.misses.Load(), Passed: t.passed.Load(), SentBytes: t.sent.Load(), FetchedBytes: t.fetched.Load(),
		PassedBytes: t.passedBytes.Load(), Saved: t.saved.Load(), Evicted: t.evicted.Load(), EvictedBytes: t.evictedBytes.Load(), Refused: t.refused.Load(),
		Corrupt: t.corrupt.Load(),
	}
}

// Copies are the figures that the control plane is told.
func (d *Door) Copies() nimbus.CacheCopies {
	f := d.Figures()
	return nimbus.CacheCopies{
		Hits: f.Hits + f.Joined, Misses: f.Misses + f.Passed, SentBytes: f.SentBytes, OriginBytes: f.FetchedBytes + f.PassedBytes, Saved: f.Saved,
		Evicted: f.Evicted, EvictedBytes: f.EvictedBytes, Refused: f.Refused, Corrupt: f.Corrupt, Entries: f.Entries, Bytes: f.Bytes, Limit: f.Limit,
	}
}

// counted counts the bytes of a content that passes.
type counted struct {
	io.ReadCloser

	bytes *atomic.Int64
}

// Read implements io.Reader.
func (c counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.bytes.Add(int64(n))
	return n, err //nolint:wrapcheck // an io.Reader's error is its own
}
