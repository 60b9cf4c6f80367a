package logs

import (
	"context"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Level is how grave a line is, as its text has it.
type Level uint8

// Levels, from what says least. Their numbers are stored.
const (
	LevelNone Level = iota // nothing that says so
	LevelDebug
	LevelInfo
	LevelWarn
	LevelError
)

// Query says which lines of an org are wanted. Its zero value wants all.
type Query struct {
	Text     string   // what a line holds; of a pattern, RE2
	Pattern  bool     // Text is a regular expression
	Attempts []string // of these alone; nil: of all
	Step     int32    // of that step alone, from 1; 0: of all
	Streams  []nimbus.Stream
	Level    Level     // at least
	Since    time.Time // inclusive; zero: from the first
	Until    time.Time // exclusive; zero: to the last
	Limit    int       // of lines in a page
	After    string    // a Position where the page before it ended, "" for the first page
}

// Found is one line that a query found.
type Found struct {
	Key   nimbus.LogKey
	Line  nimbus.Line
	Level Level
}

// Page is a part of what a query finds: newest attempts first, the lines of each
// in their order.
type Page struct {
	Found []Found
	// Next continues after this page. It is "" where all was looked at; a page may
	// have few lines and a Next, where looking any longer would have cost too much.
	Next string
	// Scanned is how many bytes of text were looked at.
	Scanned int64
}

// Searcher finds lines. Codes: invalid for a query that can't be one.
type Searcher interface {
	Search(ctx context.Context, orgID string, q Query) (Page, error)
}

// Counts is what a log holds; zero for one that isn't there.
type Counts struct {
	Lines, Bytes int64 // of text, with the ends of lines
	ByLevel      [LevelError + 1]int64
	First, Last  time.Time // the earliest and the latest line's
}

// Looker looks into logs without reading them whole.
type Looker interface {
	// Counts tells what a log holds.
	Counts(ctx context.Context, key nimbus.LogKey) (Counts, error)
	// List returns up to limit attempts of an org that have a log, of those whose
	// id is greater than after: ids sort by when they were made.
	List(ctx context.Context, orgID, after string, limit int) ([]string, error)
}

// Batch is what an outbox hands on: it never changes, so a copy that was cut short
// is made again from the same lines. Only what is deleted meanwhile is left out.
type Batch struct {
	ID   int64 // grows, with gaps
	Logs []Part
}

// Part is contiguous lines of one log.
type Part struct {
	Key   nimbus.LogKey
	Lines []nimbus.Line
}

// Outbox hands on what a store has acknowledged, in the order in which it did, for
// a second store to hold as well.
type Outbox interface {
	// Next returns the oldest batch that is not shipped, ok false if there is none.
	Next(ctx context.Context) (b Batch, ok bool, err error)
	// Shipped says that a batch, and all before it, are held by the second store.
	Shipped(ctx context.Context, id int64) error
	// Lag is how many bytes wait, and since when the oldest does; zero for none.
	Lag(ctx context.Context) (bytes int64, oldest time.Time, err error)
}
