package scheduler

import (
	"context"
	"maps"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// What a summary looks at: so many jobs at most, and so long a time, so that a
// trend has at most 92 days or 170 hours.
const (
	MaxSummaryJobs       = 50_000
	DefaultSummarySpan   = 7 * 24 * time.Hour
	MaxSummarySpan       = 90 * 24 * time.Hour
	MaxHourlySummarySpan = 7 * 24 * time.Hour
	// hourly is up to how long a time is told by the hour where nobody says.
	hourly = 48 * time.Hour
	// late is by how much a time may be longer: who asks for the last 90 days counts
	// them by a clock of their own, and the request takes a while.
	late = 5 * time.Minute
)

// SummaryFilter says which jobs to sum up: those that pass all that is set, as in
// a JobFilter.
type SummaryFilter struct {
	Since, Until time.Time // admitted in this time; zero for the last DefaultSummarySpan, and now
	Key          string    // of their metadata, "" for any
	Bucket       nimbus.JobBucket
	Labels       []string
	Metadata     map[string]string
	Repo         string
}

// Outcomes reads how the jobs of an org went, the newest first and no more than
// MaxSummaryJobs of them, and says of which time they are. begin is called at the
// beginning of each try, and what it returns with every job. Codes: invalid.
func (s *Service) Outcomes(ctx context.Context, orgID string, f SummaryFilter, begin func() func(nimbus.JobOutcome)) (w nimbus.SummaryWindow, err error) {
	if err := f.check(); err != nil {
		return w, err
	}
	err = s.store.View(ctx, func(r Reader) error {
		if w, err = f.window(r.Now()); err != nil {
			return err
		}
		// Without an end, as it was asked for: what was admitted in this very moment
		// is there as well.
		jobs := JobFilter{Since: w.Since, Until: f.Until, Labels: f.Labels, Metadata: f.metadata(), Repo: f.Repo, PageSize: MaxSummaryJobs + 1}
		each, n, last := begin(), 0, time.Time{}
		err := r.Outcomes(ctx, orgID, jobs, func(j nimbus.JobOutcome) {
			if n++; n > MaxSummaryJobs {
				w.CompleteSince = last
				return
			}
			last = j.AdmittedAt
			each(j)
		})
		return err
	})
	return w, err
}

// check tells whether jobs can be looked for so.
func (f SummaryFilter) check() error {
	if f.Key != "" && nimbus.CheckMetadata(map[string]string{f.Key: ""}) != nil {
		return nimbus.Errorf(nimbus.CodeInvalid, "%q is no key of metadata", clip(f.Key)).
			WithHint("a key has lower case letters, digits and ._- only; a summary without a key tells which there are")
	}
	if len(f.Labels)+len(f.metadata()) > maxFilters {
		return nimbus.Errorf(nimbus.CodeInvalid, "jobs are looked for by at most %d labels and pieces of metadata, the key among them", maxFilters)
	}
	return nil
}

// metadata is what the jobs must have.
func (f SummaryFilter) metadata() map[string]string {
	if _, ok := f.Metadata[f.Key]; ok || f.Key == "" {
		return f.Metadata
	}
	all := map[string]string{f.Key: ""}
	maps.Copy(all, f.Metadata)
	return all
}

// window is the time that is asked for, as of now.
func (f SummaryFilter) window(now time.Time) (w nimbus.SummaryWindow, err error) {
	w = nimbus.SummaryWindow{Since: f.Since, Until: f.Until, Bucket: f.Bucket}
	if w.Until.IsZero() {
		w.Until = now
	}
	if w.Since.IsZero() {
		w.Since = w.Until.Add(-DefaultSummarySpan)
	}
	span := w.Until.Sub(w.Since)
	if w.Bucket == "" {
		w.Bucket = nimbus.JobBucketDay
		if span <= hourly+late {
			w.Bucket = nimbus.JobBucketHour
		}
	}
	switch {
	case span <= 0:
		return w, nimbus.Errorf(nimbus.CodeInvalid, "a summary is of a time that ends after it begins, not from %s until %s",
			w.Since.UTC().Format(time.RFC3339), w.Until.UTC().Format(time.RFC3339)).WithHint("set since to a time before until, or before now")
	case span > MaxSummarySpan+late:
		return w, nimbus.Errorf(nimbus.CodeInvalid, "a summary is of at most 90 days").WithHint("set since to a later time, or until to an earlier one")
	case w.Bucket.Length() == 0:
		return w, nimbus.Errorf(nimbus.CodeInvalid, "%q is no part of a trend", clip(string(w.Bucket))).WithHint("ask for hour or day")
	case w.Bucket == nimbus.JobBucketHour && span > MaxHourlySummarySpan+late:
		return w, nimbus.Errorf(nimbus.CodeInvalid, "a summary by the hour is of at most 7 days").WithHint("ask for days, or for a shorter time")
	}
	return w, nil
}
