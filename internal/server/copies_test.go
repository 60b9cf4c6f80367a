package server

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/logs/clickhouse"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// TestLogsAreCopied: a line that is acknowledged is in ClickHouse soon; while it is
// away that is told by /readyz and the metrics, and lines are acknowledged all the
// same.
func TestLogsAreCopied(t *testing.T) {
	t.Parallel()
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		tryCopies(t, func(ops Operations) *running { return serveTest(t, ops, nil) })
	})
	t.Run("replica", func(t *testing.T) {
		t.Parallel()
		tryCopies(t, func(ops Operations) *running {
			return replicaTest(t, ReplicaConfig{Database: testenv.Postgres(t), MasterKey: identity.KeySource{File: filepath.Join(t.TempDir(), "key")}, Operations: ops})
		})
	})
}

func tryCopies(t *testing.T, serve func(Operations) *running) {
	t.Helper()
	engine := testenv.ClickHouse(t)
	cfg := clickhouse.Config{URL: engine.URL + "/logs"}
	s := serve(Operations{ClickHouse: &cfg})
	key := nimbus.LogKey{OrgID: nimbus.DefaultOrgID, AttemptID: nimbus.NewID(nimbus.PrefixAttempt, time.Now())}
	appended := int64(0)
	write := func() {
		t.Helper()
		appended++
		acked, err := s.logs.Append(t.Context(), key, []nimbus.Line{{Seq: appended, At: time.Now(), Stream: nimbus.StreamStdout, Text: "hello"}})
		if err != nil || acked != appended {
			t.Fatalf("line %d: acknowledged up to %d, %v", appended, acked, err)
		}
	}
	tells := func(ready, metric string) bool {
		t.Helper()
		status, body, _ := s.get(t, "/readyz", s.AdminToken())
		if status != http.StatusOK {
			t.Fatalf("/readyz answers %d %s", status, body)
		}
		_, metrics, _ := s.get(t, "/metrics", s.AdminToken())
		return strings.Contains(body, ready) && strings.Contains(metrics, metric)
	}
	await := func(what string, is func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !is(); <-time.After(50 * time.Millisecond) { // poll: it notices by itself
			if time.Now().After(deadline) {
				t.Fatalf("waited in vain until %s\n%s", what, s.log)
			}
		}
	}
	held := func() int64 {
		lines, _, err := s.copies.tables.Held(t.Context(), key)
		if err != nil {
			return -1
		}
		return lines
	}
	const here, away = `"name":"clickhouse","needed":false,"ok":true`, `"name":"clickhouse","needed":false,"ok":false`
	write()
	await("tables that are not there are told", func() bool { return tells(away, "nimbus_log_copy_lag_bytes ") && tells("lacks tables", "") })
	if m, err := MigrateLogs(t.Context(), cfg, clickhouse.Layout{}, true); err != nil || len(m.Statements) == 0 || m.To != 0 {
		t.Errorf("a dry run: %+v, %v", m, err)
	}
	if m, err := MigrateLogs(t.Context(), cfg, clickhouse.Layout{}, false); err != nil || m.To == 0 {
		t.Fatalf("%+v, %v", m, err)
	}
	await("the line is there", func() bool {
		return held() == 1 && tells(here, "nimbus_log_copy_lag_bytes 0\n") && tells(here, "nimbus_log_copy_lines_total 1\n")
	})
	engine.Kill()
	write()
	await("it is told to be away", func() bool {
		return tells(away, "nimbus_log_copy_lines_total 1\n") && s.copies.shipper.Figures().LagBytes > 0
	})
	if lines, err := s.logs.Read(t.Context(), key, 1, 10); err != nil || len(lines) != 2 {
		t.Errorf("meanwhile %d lines are read, %v", len(lines), err)
	}
	if err := engine.Start(); err != nil {
		t.Fatal(err)
	}
	await("both lines are there", func() bool { return held() == 2 && tells(here, "nimbus_log_copy_lag_seconds 0\n") })
	// Of a log that the first store let go of a trace has its steps all the same.
	key = nimbus.LogKey{OrgID: nimbus.DefaultOrgID, AttemptID: nimbus.NewID(nimbus.PrefixAttempt, time.Now().Add(-30*24*time.Hour))}
	step := nimbus.Line{Seq: 1, At: time.Now().Truncate(time.Millisecond).UTC(), Stream: nimbus.StreamStep, Step: 1, Text: "build"}
	if _, err := s.logs.Append(t.Context(), key, []nimbus.Line{step}); err != nil {
		t.Fatal(err)
	}
	await("the step is there", func() bool { return held() == 1 })
	if gone, err := s.copies.sweeper.Sweep(t.Context()); err != nil || gone != 1 {
		t.Fatalf("the first store let go of %d logs, %v", gone, err)
	}
	if lines, err := s.traces.Steps(t.Context(), key, 10); err != nil || len(lines) != 1 || lines[0] != step {
		t.Errorf("a trace has the steps %v, %v", lines, err)
	}
}
