package logs

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
	"github.com/nimbus-ci/nimbus/internal/logs/clickhouse"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

const million = 1_000_000

// large is an outbox of one log of a million lines.
type large struct {
	key     nimbus.LogKey
	at      time.Time
	shipped int64
	stop    func()
}

func (o *large) Next(context.Context) (logs.Batch, bool, error) {
	if o.shipped == million {
		return logs.Batch{}, false, nil
	}
	p := logs.Part{Key: o.key}
	for seq := o.shipped + 1; seq <= o.shipped+50_000; seq++ {
		p.Lines = append(p.Lines, o.line(seq))
	}
	return logs.Batch{ID: o.shipped + 50_000, Logs: []logs.Part{p}}, true, nil
}

func (o *large) line(seq int64) nimbus.Line {
	return nimbus.Line{Seq: seq, At: o.at.Add(time.Duration(seq) * time.Microsecond), Stream: nimbus.StreamStdout, Text: fmt.Sprintf("INFO line %d of a long log", seq)}
}

func (o *large) Shipped(_ context.Context, id int64) error {
	if o.shipped = id; id == million {
		o.stop()
	}
	return nil
}

func (o *large) Lag(context.Context) (int64, time.Time, error) { return 1, o.at, nil }

// TestAMillionLines of one log are copied, counted, read at any place and searched.
func TestAMillionLines(t *testing.T) {
	engine := testenv.ClickHouse(t)
	tables, err := clickhouse.Open(clickhouse.Config{URL: engine.URL + "/logs"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tables.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, _, err := tables.Migrate(t.Context(), clickhouse.Layout{}); err != nil {
		t.Fatal(err)
	}
	at := time.Now().Add(-time.Hour).Truncate(time.Microsecond).UTC()
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Minute)
	defer stop()
	o := &large{key: nimbus.LogKey{OrgID: nimbus.NewID(nimbus.PrefixOrg, at), AttemptID: nimbus.NewID(nimbus.PrefixAttempt, at)}, at: at, stop: stop}
	clickhouse.NewShipper(tables, o, slog.New(slog.DiscardHandler)).Run(ctx)
	if lines, last, err := tables.Held(t.Context(), o.key); err != nil || lines != million || last != million {
		t.Fatalf("%d lines are there up to %d, %v", lines, last, err)
	}
	if c, err := tables.Counts(t.Context(), o.key); err != nil || c.Lines != million || c.ByLevel[logs.LevelInfo] != million {
		t.Errorf("they are counted as %+v, %v", c, err)
	}
	for _, from := range []int64{1, 499_990, million - 9, million + 1} {
		page, err := tables.Read(t.Context(), o.key, from, 10)
		if err != nil || len(page) != int(min(10, million+1-from)) {
			t.Errorf("from line %d there are %d, %v", from, len(page), err)
		}
		for i, l := range page {
			if want := o.line(from + int64(i)); l != want {
				t.Errorf("line %d is %+v, want %+v", want.Seq, l, want)
			}
		}
	}
	if n, last, err := tables.Held(t.Context(), o.key); err != nil || n != million || last != million {
		t.Errorf("%d lines are held, the last is %d, %v", n, last, err)
	}
	page, err := tables.Search(t.Context(), o.key.OrgID, logs.Query{Text: "line 777777 "})
	if err != nil || len(page.Found) != 1 || page.Found[0].Line != o.line(777_777) || page.Next != "" {
		t.Errorf("a search finds %+v, %v", page, err)
	}
}
