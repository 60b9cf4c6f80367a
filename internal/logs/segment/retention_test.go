package segment_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
	"github.com/nimbus-ci/nimbus/internal/logs/segment"
)

// retentions says of each org for how many days its logs are kept.
type retentions map[string]int32

// runs is an attempt that goes on.
var runs = nimbus.NewID(nimbus.PrefixAttempt, time.Now().Add(-10*24*time.Hour))

func (r retentions) LogOver(_ context.Context, key nimbus.LogKey) (time.Time, bool, error) {
	if key.AttemptID == runs {
		return time.Time{}, false, nil
	}
	return time.Now(), true, nil
}

func (r retentions) Orgs(_ context.Context, orgID string, _ int) (ids []string, err error) {
	next := ""
	for id := range r {
		if id > orgID && (next == "" || id < next) {
			next = id
		}
	}
	if next != "" {
		ids = []string{next}
	}
	return ids, nil
}

func (r retentions) LogRetention(_ context.Context, orgID string) (int32, bool, error) {
	return r[orgID], true, nil
}

// TestRetention: what is older goes, of the orgs that say so; a job that still writes
// or goes on keeps its log, and so does who keeps all.
func TestRetention(t *testing.T) {
	t.Parallel()
	s, err := segment.Open(t.TempDir(), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	now := time.Now()
	week, ever := nimbus.NewID(nimbus.PrefixOrg, now), nimbus.NewID(nimbus.PrefixOrg, now)
	add := func(org string, made, wrote time.Duration) nimbus.LogKey {
		key := nimbus.LogKey{OrgID: org, AttemptID: nimbus.NewID(nimbus.PrefixAttempt, now.Add(-made))}
		line := nimbus.Line{Seq: 1, At: now.Add(-wrote), Stream: nimbus.StreamStdout, Text: "x"}
		if _, err := s.Append(t.Context(), key, []nimbus.Line{line}); err != nil {
			t.Fatal(err)
		}
		return key
	}
	const day = 24 * time.Hour
	keys := map[nimbus.LogKey]bool{ // whether it stays
		add(week, 9*day, 8*day): false, add(week, 9*day, 6*day): true, add(week, 8*day, 8*day): false, add(week, 2*day, 2*day): true,
		add(ever, 900*day, 900*day): true,
	}
	silent := nimbus.LogKey{OrgID: week, AttemptID: runs}
	if _, err := s.Append(t.Context(), silent, []nimbus.Line{{Seq: 1, At: now.Add(-10 * day), Stream: nimbus.StreamStdout, Text: "x"}}); err != nil {
		t.Fatal(err)
	}
	keys[silent] = true
	r := logs.Retention{Store: s, Books: retentions{week: 7, ever: 0}, Log: slog.New(slog.DiscardHandler)}
	if n, err := r.Sweep(t.Context()); err != nil || n != 2 {
		t.Errorf("%d were removed, %v", n, err)
	}
	for key, stays := range keys {
		if n, err := s.Acked(t.Context(), key); err != nil || n != map[bool]int64{true: 1}[stays] {
			t.Errorf("%s has %d lines, stays: %v, %v", key.AttemptID, n, stays, err)
		}
	}
}
