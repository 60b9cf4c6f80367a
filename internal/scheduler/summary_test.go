package scheduler_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/bus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store/storetest"
)

// TestOutcomesAreOfATime: the newest first, of jobs with the key, of the window
// that was asked for or the usual one.
func TestOutcomesAreOfATime(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		submit := func(metadata map[string]string) {
			t.Helper()
			_, err := w.Submit(t.Context(), admin, scheduler.Submission{Spec: nimbus.Spec{Command: []string{"true"}}, Metadata: metadata})
			w.must(err)
		}
		read := func(f scheduler.SummaryFilter) (values []string, window nimbus.SummaryWindow) {
			t.Helper()
			window, err := w.Outcomes(t.Context(), nimbus.DefaultOrgID, f, func() func(nimbus.JobOutcome) {
				values = nil
				return func(j nimbus.JobOutcome) { values = append(values, j.Metadata["model"]) }
			})
			w.must(err)
			return values, window
		}
		equal := func(want []string, f scheduler.SummaryFilter) {
			t.Helper()
			got, _ := read(f)
			if len(got) != len(want) {
				t.Fatalf("%+v: %q, want %q", f, got, want)
			}
			for i := range got {
				if got[i] != want[i] {
					t.Fatalf("%+v: %q, want %q", f, got, want)
				}
			}
		}
		submit(map[string]string{"model": "old"})
		w.skip(8 * 24 * time.Hour)
		submit(map[string]string{"model": "a", "seed": "1"})
		submit(nil)
		submit(map[string]string{"model": "b"})
		_, window := read(scheduler.SummaryFilter{})
		if window.Until.Sub(window.Since) != 7*24*time.Hour || window.Bucket != nimbus.JobBucketDay || !window.CompleteSince.IsZero() {
			t.Errorf("where nobody says, it is of %+v", window)
		}
		now := window.Until
		equal([]string{"b", "", "a"}, scheduler.SummaryFilter{})
		equal([]string{"b", "a"}, scheduler.SummaryFilter{Key: "model"})
		equal([]string{"a"}, scheduler.SummaryFilter{Key: "model", Metadata: map[string]string{"seed": "1"}})
		equal([]string{"b"}, scheduler.SummaryFilter{Key: "model", Metadata: map[string]string{"model": "b"}})
		equal([]string{"b", "a", "old"}, scheduler.SummaryFilter{Key: "model", Since: now.Add(-9 * 24 * time.Hour)})
		equal([]string{"old"}, scheduler.SummaryFilter{Until: now.Add(-7 * 24 * time.Hour)})
		equal(nil, scheduler.SummaryFilter{Repo: "octo/none"})
		// By the clock of who asks, which is a minute behind.
		ago := func(days int) time.Time { return now.Add(-time.Duration(days)*24*time.Hour - time.Minute) }
		if _, window := read(scheduler.SummaryFilter{Since: ago(2)}); window.Bucket != nimbus.JobBucketHour {
			t.Errorf("two days are told by the %s", window.Bucket)
		}
		read(scheduler.SummaryFilter{Since: ago(90)})
		read(scheduler.SummaryFilter{Since: ago(7), Bucket: nimbus.JobBucketHour})
	})
}

// TestOutcomesHaveBounds: of the time, of its parts and of what is looked for.
func TestOutcomesHaveBounds(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		now := time.Now()
		labels := make([]string, 16)
		for name, f := range map[string]scheduler.SummaryFilter{
			"ends before it begins": {Since: now, Until: now.Add(-time.Hour)},
			"is no time":            {Since: now, Until: now},
			"too long":              {Since: now.Add(-91 * 24 * time.Hour)},
			"from ever":             {Since: time.Unix(1, 0)},
			"too long by the hour":  {Since: now.Add(-8 * 24 * time.Hour), Until: now, Bucket: nimbus.JobBucketHour},
			"no part":               {Bucket: "week"},
			"no key":                {Key: "a b"},
			"too many filters":      {Key: "model", Labels: labels},
		} {
			_, err := w.Outcomes(t.Context(), nimbus.DefaultOrgID, f, func() func(nimbus.JobOutcome) {
				t.Errorf("%s: jobs were read", name)
				return func(nimbus.JobOutcome) {}
			})
			if nimbus.ErrorCode(err) != nimbus.CodeInvalid {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// TestOutcomesAreTheNewest: where there are too many, it says from when on it has
// them all.
func TestOutcomesAreTheNewest(t *testing.T) {
	t.Parallel()
	w := newWorld(t, storetest.SQLite(t), scheduler.Config{})
	start := time.Now()
	for most, want := range map[int]time.Time{
		scheduler.MaxSummaryJobs:     {},
		scheduler.MaxSummaryJobs + 9: start.Add(-(scheduler.MaxSummaryJobs - 1) * time.Second),
	} {
		s := scheduler.New(scheduler.Config{}, manyJobs{w.store, start, most}, bus.NewInProcess(), w.github, w.tokens, slog.New(slog.DiscardHandler))
		n := 0
		window, err := s.Outcomes(t.Context(), nimbus.DefaultOrgID, scheduler.SummaryFilter{}, func() func(nimbus.JobOutcome) { return func(nimbus.JobOutcome) { n++ } })
		w.must(err)
		if n != scheduler.MaxSummaryJobs || !window.CompleteSince.Equal(want) {
			t.Errorf("of %d jobs %d were read, all since %s, want %s", most, n, window.CompleteSince, want)
		}
	}
}

// manyJobs has so many jobs, a second apart.
type manyJobs struct {
	scheduler.Store
	start time.Time
	most  int
}

func (m manyJobs) View(ctx context.Context, f func(scheduler.Reader) error) error {
	return m.Store.View(ctx, func(r scheduler.Reader) error { return f(manyRead{r, m}) })
}

type manyRead struct {
	scheduler.Reader
	m manyJobs
}

func (r manyRead) Outcomes(_ context.Context, _ string, f scheduler.JobFilter, each func(nimbus.JobOutcome)) error {
	for i := range min(r.m.most, f.PageSize) {
		each(nimbus.JobOutcome{AdmittedAt: r.m.start.Add(-time.Duration(i) * time.Second)})
	}
	return nil
}
