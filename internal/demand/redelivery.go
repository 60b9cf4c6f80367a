package demand

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Times and bounds of redelivery.
const (
	redeliverEvery = 30 * time.Second
	// lookOverlap is looked at again each time: GitHub lists a sending when it
	// has ended, and they end in another order than they began.
	lookOverlap = 15 * time.Minute
	lookPages   = 100 // of one look; the next goes on
	askAtOnce   = 25
	// firstAsk is how long a failed webhook is left alone, since it may have
	// been processed although GitHub heard no answer; then it is asked for
	// after twice as long each time.
	firstAsk    = time.Minute
	maxAsks     = 12
	mostWait    = 12 * time.Hour
	githubKeeps = 8 * 24 * time.Hour // GitHub.com 3 days, Enterprise Server 7
)

// Cursor is how far GitHub's list was looked through.
type Cursor struct {
	CheckedAt time.Time // GitHub's clock: all that failed before is known
	Page      string    // where a look goes on that was not ended
	NewestAt  time.Time // what CheckedAt becomes at its end
}

// Missing is a webhook that was not processed.
type Missing struct {
	GUID   string
	ID     int64 // of its newest sending
	SentAt time.Time
	Tries  int
}

// Sender is what redelivery needs of GitHub. Codes: not_found for a webhook
// that it has forgotten.
type Sender interface {
	FailedDeliveries(ctx context.Context, cursor string) (page []nimbus.SentDelivery, next string, err error)
	Redeliver(ctx context.Context, id int64) error
}

// Redeliveries keeps what redelivery knows; times are its own clock's.
type Redeliveries interface {
	Now(ctx context.Context) (time.Time, error)
	Cursor(ctx context.Context, appID int64) (Cursor, error)
	// Failed adds webhooks that the ledger does not have, to be asked for after
	// a while, and saves the cursor with them.
	Failed(ctx context.Context, appID int64, failed []nimbus.SentDelivery, after time.Duration, c Cursor) error
	// Missing are those that are due and still not in the ledger, oldest first.
	Missing(ctx context.Context, appID int64, most int) ([]Missing, error)
	// PutOff says when to ask again; Forget that it is in vain.
	PutOff(ctx context.Context, appID int64, guid string, tries int, wait time.Duration) error
	Forget(ctx context.Context, appID int64, guid string) error
}

// Redelivery has GitHub send again what was not processed: the ledger tells
// which that is, not GitHub, to whom an answer may have been lost.
type Redelivery struct {
	Apps  func() map[int64]Sender // those that are connected now, by their ids
	Store Redeliveries
	Log   *slog.Logger
}

// Run looks for lost webhooks until ctx ends.
func (r *Redelivery) Run(ctx context.Context) {
	every(ctx, r.Log, "looking for lost webhooks", redeliverEvery, r.Sweep)
}

// Sweep looks once through what is new of GitHub's list of each App, and asks
// for some of what is missing.
func (r *Redelivery) Sweep(ctx context.Context) error {
	var errs []error // an App that can't be asked must not keep the others from it
	for id, app := range r.Apps() {
		s := sweep{Redelivery: r, app: id, github: app}
		if err := s.look(ctx); err != nil {
			errs = append(errs, fmt.Errorf("look through the list of webhooks of App %d: %w", id, err))
			continue
		}
		if err := s.ask(ctx); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// sweep is one look for one App.
type sweep struct {
	*Redelivery
	app    int64
	github Sender
}

// look pages back from the newest sending to where the last look began. What
// was found is saved page by page, so that a look that is cut off goes on.
func (s sweep) look(ctx context.Context) error {
	c, err := s.Store.Cursor(ctx, s.app)
	if err != nil {
		return err
	}
	for range lookPages {
		page, next, err := s.github.FailedDeliveries(ctx, c.Page)
		if code := nimbus.ErrorCode(err); c.Page != "" && (code == nimbus.CodeInvalid || code == nimbus.CodeNotFound) {
			c.Page = "" // GitHub knows the page no more: from the newest on
			continue
		}
		if err != nil {
			return err
		}
		var found []nimbus.SentDelivery
		end := next == ""
		for _, d := range page {
			if d.SentAt.After(c.NewestAt) {
				c.NewestAt = d.SentAt
			}
			if d.SentAt.Before(c.CheckedAt.Add(-lookOverlap)) {
				end = true
				break
			}
			if d.Event == "workflow_job" { // nothing comes of the others
				found = append(found, d)
			}
		}
		c.Page = next
		if end {
			c.Page, c.CheckedAt = "", c.NewestAt
		}
		if err := s.Store.Failed(ctx, s.app, found, firstAsk, c); err != nil {
			return err
		}
		if end {
			return nil
		}
	}
	return nil
}

// ask asks for some of what is missing by now.
func (s sweep) ask(ctx context.Context) error {
	missing, err := s.Store.Missing(ctx, s.app, askAtOnce)
	if err != nil {
		return fmt.Errorf("read what is missing: %w", err)
	}
	for _, m := range missing {
		if err := s.askFor(ctx, m); err != nil {
			return fmt.Errorf("ask for webhook %s: %w", m.GUID, err)
		}
	}
	return nil
}

func (s sweep) askFor(ctx context.Context, m Missing) error {
	if m.Tries >= maxAsks {
		return s.Store.Forget(ctx, s.app, m.GUID)
	}
	err := s.github.Redeliver(ctx, m.ID)
	if nimbus.ErrorCode(err) == nimbus.CodeNotFound {
		s.Log.WarnContext(ctx, "a webhook is lost: GitHub has forgotten it", "delivery", m.GUID, "sent", m.SentAt)
		return s.Store.Forget(ctx, s.app, m.GUID)
	}
	if err != nil {
		return err
	}
	wait := min(firstAsk<<(m.Tries+1), mostWait)
	if m.Tries+1 == maxAsks {
		s.Log.WarnContext(ctx, "a webhook was not processed however often GitHub sent it", "delivery", m.GUID, "sent", m.SentAt)
		wait = githubKeeps // for as long as it is listed, it is to be known
	}
	return s.Store.PutOff(ctx, s.app, m.GUID, m.Tries+1, wait)
}
