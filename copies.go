package nimbus

// CacheCopies is what a host's copies of contents of the cache did since its agent
// started, and what they take of its disk; all zero where it keeps none.
type CacheCopies struct {
	Hits         int64 `json:",omitempty"` // contents that were sent from the host, whoever had them fetched
	Misses       int64 `json:",omitempty"` // contents that were fetched to keep, or passed by
	SentBytes    int64 `json:",omitempty"` // from the host
	OriginBytes  int64 `json:",omitempty"` // of contents, that came from the control plane
	Saved        int64 `json:",omitempty"` // contents that were kept as jobs saved them
	Evicted      int64 `json:",omitempty"` // contents that made room
	EvictedBytes int64 `json:",omitempty"`
	Refused      int64 `json:",omitempty"` // contents, or parts of them, that were not kept for want of room
	Corrupt      int64 `json:",omitempty"` // contents that were dropped because their bytes had changed
	Entries      int64 `json:",omitempty"` // that are there now
	Bytes        int64 `json:",omitempty"` // that they take, with what is being written
	Limit        int64 `json:",omitempty"` // bytes that they may take
}

// HitRatio is how many of the contents that jobs asked for came from the host; 0
// where none was asked for.
func (c CacheCopies) HitRatio() float64 {
	if c.Hits+c.Misses == 0 {
		return 0
	}
	return float64(c.Hits) / float64(c.Hits+c.Misses)
}

// Check tells whether figures can be believed at all. Codes: invalid.
func (c CacheCopies) Check() error {
	for _, n := range []int64{c.Hits, c.Misses, c.SentBytes, c.OriginBytes, c.Saved, c.Evicted, c.EvictedBytes, c.Refused, c.Corrupt, c.Entries, c.Bytes, c.Limit} {
		const most = 1 << 60 // sums of two don't overflow
		if n < 0 || n > most {
			return Errorf(CodeInvalid, "%d can't be a figure of a host's cache", n)
		}
	}
	return nil
}
