package agent

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
)

// TestUsageIsTheAttemptsOwn: what a sandbox used while it was made or waited is
// nobody's, and neither is what it does once its job has ended.
func TestUsageIsTheAttemptsOwn(t *testing.T) {
	t.Parallel()
	var u usage
	began := time.Unix(1000, 0)
	u.add(began, nimbus.UsageSample{CPU: 30 * time.Second, MemoryBytes: 7, SentBytes: 100})
	u.add(began.Add(time.Second), nimbus.UsageSample{CPU: 31 * time.Second, MemoryBytes: 9, SentBytes: 150})
	end := u.end()
	u.add(began.Add(2*time.Second), nimbus.UsageSample{CPU: 99 * time.Second})
	want := nimbus.UsageSeries{Start: began, Step: time.Second,
		Points: []nimbus.UsageSample{{At: time.Second, CPU: time.Second, MemoryBytes: 9, SentBytes: 50}}}
	if diff := cmp.Diff(want, end); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(want, u.all()); diff != "" {
		t.Error(diff)
	}
}

// TestUsageIsToldInTime: the control plane's copy of a job that runs is never
// older than usageMost, and a long one is told of less often.
func TestUsageIsToldInTime(t *testing.T) {
	t.Parallel()
	var u usage
	began := time.Unix(1000, 0)
	u.add(began, nimbus.UsageSample{})
	var last, most time.Duration
	times := map[bool]int{}
	for second := 1; second <= 3600; second++ {
		at := time.Duration(second) * time.Second
		u.add(began.Add(at), nimbus.UsageSample{CPU: at})
		if at%usageLook != 0 {
			continue
		}
		series, due := u.due()
		if !due {
			continue
		}
		u.tell(series)
		most, last = max(most, at-last), at
		times[second > 600]++
	}
	if most > usageMost {
		t.Errorf("%s passed without a word", most)
	}
	if times[false] != 120 || times[true] != 300 {
		t.Errorf("told %d times in the first ten minutes and %d times in the others", times[false], times[true])
	}
}

// metered is a sandbox that counts how often it was asked.
type metered struct {
	executor.Sandbox
	now nimbus.UsageSample
	err error
}

func (m *metered) Usage(context.Context) (nimbus.UsageSample, error) { return m.now, m.err }

// TestUsageIsAdopted: the next agent goes on with the series of the one before.
func TestUsageIsAdopted(t *testing.T) {
	t.Parallel()
	a := &Agent{log: slog.New(slog.DiscardHandler), sealer: &sealer{key: make([]byte, keyBytes)}}
	dir := t.TempDir()
	open := func() *attempt {
		t.Helper()
		att, err := a.openAttempt(dir, nimbus.Assignment{}, state{}, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		return att
	}
	first := open()
	box := &metered{now: nimbus.UsageSample{CPU: time.Minute}}
	first.sandbox = box
	first.measure(t.Context())
	first.usage.series.Start = first.usage.series.Start.Add(-10 * time.Second).Truncate(time.Microsecond)
	box.now.CPU += time.Second
	first.measure(t.Context())
	if err := errors.Join(first.keepUsage(), first.wal.Close()); err != nil {
		t.Fatal(err)
	}
	kept := first.usage.all()
	if len(kept.Points) != 1 || kept.Points[0].CPU != time.Second {
		t.Fatalf("kept %+v", kept)
	}
	second := open()
	t.Cleanup(func() { _ = second.wal.Close() })
	if diff := cmp.Diff(kept, second.usage.all(), cmp.Comparer(time.Time.Equal)); diff != "" {
		t.Error(diff)
	}
	second.sandbox = box
	second.usage.series.Start = second.usage.series.Start.Add(-10 * time.Second)
	box.now.CPU += time.Second
	second.measure(t.Context())
	if points := second.usage.all().Points; len(points) != 2 || points[1].CPU != 2*time.Second {
		t.Errorf("it goes on with %+v", points)
	}
	box.err = errors.New("gone")
	second.measure(t.Context())
	if n := len(second.usage.all().Points); n != 2 {
		t.Errorf("what is not known became %d points", n)
	}
}
