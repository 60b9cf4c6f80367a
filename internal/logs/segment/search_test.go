package segment

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
)

// TestASearchEndsInTime: where the filters exclude every frame, too, a page ends when its
// time is over, and the pages together find what there is.
func TestASearchEndsInTime(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	org, now := nimbus.NewID(nimbus.PrefixOrg, time.Now()), time.Now()
	for i := range 20 {
		text := "plain"
		if i == 0 {
			text = "ERROR at last"
		}
		k := nimbus.LogKey{OrgID: org, AttemptID: nimbus.NewID(nimbus.PrefixAttempt, now.Add(time.Duration(i)*time.Second))}
		appendLines(t, s, k, []nimbus.Line{{Seq: 1, At: now, Stream: nimbus.StreamStdout, Text: text}}, 1)
	}
	if err := s.settle(everything); err != nil { // into frames, which say what levels they have
		t.Fatal(err)
	}
	s.searchTime = time.Nanosecond
	found, pages := 0, 0
	for q := (logs.Query{Level: logs.LevelError}); ; pages++ {
		page, err := s.Search(t.Context(), org, q)
		if err != nil || pages > 40 {
			t.Fatal(pages, err)
		}
		found += len(page.Found)
		if q.After = page.Next; q.After == "" {
			break
		}
	}
	if found != 1 || pages < 15 {
		t.Errorf("%d lines on %d pages", found, pages+1)
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	if _, err := s.Search(gone, org, logs.Query{Level: logs.LevelError}); !errors.Is(err, context.Canceled) {
		t.Errorf("of who has gone: %v", err)
	}
}
