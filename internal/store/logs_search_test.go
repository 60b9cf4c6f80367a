package store

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
)

// TestALogSearchEndsInTime: where the filters exclude every page of lines, too.
func TestALogSearchEndsInTime(t *testing.T) {
	t.Parallel()
	db, err := Open(t.Context(), Config{DSN: "sqlite:" + filepath.Join(t.TempDir(), "nimbus.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	l, err := db.Logs(1 << 30)
	if err != nil {
		t.Fatal(err)
	}
	org, now := nimbus.NewID(nimbus.PrefixOrg, time.Now()), time.Now()
	for i := range 10 {
		text := "plain"
		if i == 0 {
			text = "ERROR at last"
		}
		k := nimbus.LogKey{OrgID: org, AttemptID: nimbus.NewID(nimbus.PrefixAttempt, now.Add(time.Duration(i)*time.Second))}
		if _, err := l.Append(t.Context(), k, []nimbus.Line{{Seq: 1, At: now, Stream: nimbus.StreamStdout, Text: text}}); err != nil {
			t.Fatal(err)
		}
	}
	l.search = time.Nanosecond
	found, pages := 0, 0
	for q := (logs.Query{Level: logs.LevelError}); ; pages++ {
		page, err := l.Search(t.Context(), org, q)
		if err != nil || pages > 20 {
			t.Fatal(pages, err)
		}
		found += len(page.Found)
		if q.After = page.Next; q.After == "" {
			break
		}
	}
	if found != 1 || pages < 8 {
		t.Errorf("%d lines on %d pages", found, pages+1)
	}
}
