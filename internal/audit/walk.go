package audit

import (
	"context"

	"github.com/nimbus-ci/nimbus"
)

// Source lists a chain, the oldest first: so many entries or checkpoints behind
// the page's token, and the token of the next page, "" after the last.
type Source interface {
	Entries(ctx context.Context, page nimbus.PageRequest) (entries []nimbus.AuditEntry, next string, err error)
	Checkpoints(ctx context.Context, page nimbus.PageRequest) (checkpoints []nimbus.AuditCheckpoint, next string, err error)
}

// Walk passes a chain on to a sink, each checkpoint behind its entry. The chain
// may grow meanwhile: what comes after the last checkpoint that there was is
// left out, unless no checkpoint ever covers it.
func Walk(ctx context.Context, from Source, to Sink) error {
	w := walk{entries: pages[nimbus.AuditEntry]{list: from.Entries}, checkpoints: pages[nimbus.AuditCheckpoint]{list: from.Checkpoints}, to: to}
	for {
		c, ok, err := w.checkpoints.next(ctx)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if err := w.through(ctx, c.Seq); err != nil {
			return err
		}
		if err := to.Checkpoint(c); err != nil {
			return err
		}
		w.covered = c.Seq
	}
	uncovered, err := w.uncovered(ctx, from)
	if err != nil || !uncovered {
		return err
	}
	return w.through(ctx, -1)
}

type walk struct {
	entries     pages[nimbus.AuditEntry]
	checkpoints pages[nimbus.AuditCheckpoint]
	to          Sink
	passed      int64 // last entry
	covered     int64 // by a checkpoint
}

// through passes entries on up to a number; -1 means all.
func (w *walk) through(ctx context.Context, seq int64) error {
	for {
		e, ok, err := w.entries.peek(ctx)
		if err != nil || !ok || seq >= 0 && e.Seq > seq {
			return err
		}
		if e.Seq <= w.passed {
			return &BrokenError{OrgID: e.OrgID, Seq: w.passed + 1, ID: e.ID, What: "it is listed out of order"}
		}
		if err := w.to.Entry(e); err != nil {
			return err
		}
		w.passed = e.Seq
		w.entries.drop()
	}
}

// uncovered tells whether entries are left that no checkpoint covers: those
// that came while the chain was walked have one by now.
func (w *walk) uncovered(ctx context.Context, from Source) (bool, error) {
	if _, more, err := w.entries.peek(ctx); err != nil || !more {
		return false, err
	}
	newer, _, err := from.Checkpoints(ctx, nimbus.PageRequest{Size: 1, Token: token(w.covered)})
	return len(newer) == 0, err
}

// pages reads a list page by page.
type pages[T any] struct {
	list  func(context.Context, nimbus.PageRequest) ([]T, string, error)
	items []T
	token string
	ended bool
}

func (p *pages[T]) peek(ctx context.Context) (item T, ok bool, err error) {
	for len(p.items) == 0 && !p.ended {
		if p.items, p.token, err = p.list(ctx, nimbus.PageRequest{Size: nimbus.MaxAuditPage, Token: p.token}); err != nil {
			return item, false, err
		}
		p.ended = p.token == ""
	}
	if len(p.items) == 0 {
		return item, false, nil
	}
	return p.items[0], true, nil
}

func (p *pages[T]) drop() { p.items = p.items[1:] }

func (p *pages[T]) next(ctx context.Context) (item T, ok bool, err error) {
	if item, ok, err = p.peek(ctx); ok {
		p.drop()
	}
	return item, ok, err
}
