package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/lifecycle"
	"github.com/nimbus-ci/nimbus/internal/logs"
	"github.com/nimbus-ci/nimbus/internal/logs/clickhouse"
	"github.com/nimbus-ci/nimbus/internal/logs/tiered"
)

// defaultLogsLocal is how long after its end a log is kept here as well.
const defaultLogsLocal = 24 * time.Hour

// logCopies is ClickHouse and who copies logs to it.
type logCopies struct {
	tables  *clickhouse.Store
	shipper *clickhouse.Shipper
	sweeper *tiered.Sweeper
}

// firstStore is one of which logs can be copied.
type firstStore interface {
	tiered.First
	logs.Outbox
}

// openCopies has logs copied to ClickHouse, and read from there once they are not
// here any more. It does not call ClickHouse, which may be away.
func (s *Server) openCopies() error {
	if s.cfg.ClickHouse == nil {
		return nil
	}
	first, ok := s.logs.(firstStore)
	if !ok {
		return nimbus.Errorf(nimbus.CodeInvalid, "logs of this profile can't be copied to ClickHouse")
	}
	cfg := *s.cfg.ClickHouse
	if cfg.Retention == nil {
		cfg.Retention = s.logRetention
	}
	tables, err := clickhouse.Open(cfg)
	if err != nil {
		return err
	}
	s.closers = append(s.closers, tables.Close)
	local := s.cfg.LogsLocal
	if local == 0 {
		local = defaultLogsLocal
	}
	if local < tiered.MinLocal {
		return nimbus.Errorf(nimbus.CodeInvalid, "logs are kept here for %v at least", tiered.MinLocal)
	}
	both := tiered.New(first, tables, local)
	shipper := clickhouse.NewShipper(tables, first, s.cfg.Log)
	s.copies = &logCopies{tables: tables, shipper: shipper, sweeper: &tiered.Sweeper{
		Store: both, Books: s.store.LogBooks(), Outbox: first, Copier: shipper, Log: s.cfg.Log,
	}}
	s.logs = both
	s.watchCopies()
	s.services = append(s.services, lifecycle.Func("copies of logs", s.copyLogs))
	return nil
}

// logRetention is how long an org's lines are kept in ClickHouse: as long as here.
func (s *Server) logRetention(ctx context.Context, orgID string) (time.Duration, error) {
	days, _, err := s.store.LogRetention(ctx, orgID)
	return time.Duration(days) * 24 * time.Hour, err
}

// copyLogs copies, and lets go of what is copied, on the replica that leads in it.
func (s *Server) copyLogs(ctx context.Context, ready func()) error {
	ready()
	work := func(ctx context.Context) {
		var both sync.WaitGroup
		both.Go(func() { s.copies.shipper.Run(ctx) })
		both.Go(func() { s.copies.sweeper.Run(ctx) })
		both.Wait()
	}
	if s.leadCopy == nil {
		work(ctx)
	} else {
		s.leadCopy(ctx, work)
	}
	return nil
}

// watchCopies has metrics tell how far copying is.
func (s *Server) watchCopies() {
	of := func(value func(clickhouse.Figures) float64) func() float64 {
		return func() float64 { return value(s.copies.shipper.Figures()) }
	}
	s.metrics.Gauge("nimbus_log_copy_lag_bytes", "Bytes of logs that are not in ClickHouse yet; the same on all replicas.",
		of(func(f clickhouse.Figures) float64 { return float64(f.LagBytes) }))
	s.metrics.Gauge("nimbus_log_copy_lag_seconds", "For how long the oldest of them waits; the same on all replicas.",
		of(func(f clickhouse.Figures) float64 { return f.LagSeconds }))
	s.metrics.Count("nimbus_log_copy_lines_total", "Lines that this process copied to ClickHouse.",
		of(func(f clickhouse.Figures) float64 { return float64(f.Lines) }))
	s.metrics.Count("nimbus_log_copy_failures_total", "Tries to copy lines that failed, and were repeated.",
		of(func(f clickhouse.Figures) float64 { return float64(f.Failures) }))
	s.metrics.Count("nimbus_log_copy_parked_lines_total", "Lines that ClickHouse refused for what is in them: the first store alone has them.",
		of(func(f clickhouse.Figures) float64 { return float64(f.Parked) }))
}

// MigrateLogs makes the tables of logs in ClickHouse, or tells what would be run.
func MigrateLogs(ctx context.Context, cfg clickhouse.Config, layout clickhouse.Layout, dry bool) (m LogMigration, err error) {
	tables, err := clickhouse.Open(cfg)
	if err != nil {
		return m, err
	}
	defer func() {
		if closing := tables.Close(); err == nil && closing != nil {
			err = fmt.Errorf("migrate logs: %w", closing)
		}
	}()
	if m.From, m.Statements, err = tables.Plan(ctx, layout); err != nil || dry {
		return m, err
	}
	m.From, m.To, err = tables.Migrate(ctx, layout)
	return m, err
}

// LogMigration is what was done to ClickHouse's tables, or would be.
type LogMigration struct {
	From, To   int // To is 0 of what would be
	Statements []string
}

// LogReader is the statements that make a user of ClickHouse a reader of one org's
// lines. Codes: invalid.
func LogReader(cfg clickhouse.Config, user, orgID string) ([]string, error) {
	tables, err := clickhouse.Open(cfg)
	if err != nil {
		return nil, err
	}
	statements, err := tables.Reader(user, orgID)
	return statements, errors.Join(err, tables.Close())
}
