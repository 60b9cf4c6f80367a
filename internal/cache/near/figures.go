package near

import "sync/atomic"

// Figures are what the copies on a host did since it started, and what they take.
type Figures struct {
	Hits         int64 // contents that were sent from here
	Joined       int64 // by who waited for one that somebody else had fetched
	Misses       int64 // contents that were fetched
	Passed       int64 // answers with a content that was not kept, or a part of one that isn't here
	SentBytes    int64 // from here
	FetchedBytes int64 // from the origin, to keep
	Saved        int64 // contents that were kept as they were saved
	Evicted      int64
	EvictedBytes int64
	Corrupt      int64 // contents that were dropped because their bytes had changed
	Entries      int64 // that are here now
	Bytes        int64 // that they take, with what is being written
	Limit        int64 // bytes that they may take
}

// tally counts.
type tally struct {
	hits, joined, misses, passed, sent, fetched, saved, evicted, evictedBytes, corrupt atomic.Int64
}

func (t *tally) figures() Figures {
	return Figures{
		Hits: t.hits.Load(), Joined: t.joined.Load(), Misses: t.misses.Load(), Passed: t.passed.Load(), SentBytes: t.sent.Load(), FetchedBytes: t.fetched.Load(),
		Saved: t.saved.Load(), Evicted: t.evicted.Load(), EvictedBytes: t.evictedBytes.Load(), Corrupt: t.corrupt.Load(),
	}
}
