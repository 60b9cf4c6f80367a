// Package traces keeps what jobs tell by OTLP, and reads it back as one trace with
// the job's own life. What comes is stamped by the host that ran the job, and is
// stored under the org and the job of the host's lease, whatever it says itself.
package traces

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Limits bound what is kept. Zero fields mean the usual.
type Limits struct {
	Off     bool          // no job has a receiver
	Attempt int64         // bytes of one attempt, packed
	Batches int64         // of one attempt: each is a row
	Org     int64         // and of an org
	Keep    time.Duration // how long
}

// The usual limits.
const (
	DefaultAttempt = 64 << 20
	DefaultBatches = 20_000
	DefaultOrg     = 4 << 30
	DefaultKeep    = 30 * 24 * time.Hour
)

func (l Limits) withDefaults() Limits {
	l.Attempt, l.Batches = cmp.Or(l.Attempt, DefaultAttempt), cmp.Or(l.Batches, DefaultBatches)
	l.Org, l.Keep = cmp.Or(l.Org, DefaultOrg), cmp.Or(l.Keep, DefaultKeep)
	return l
}

// Position is a batch of a job.
type Position struct {
	AttemptID string
	Seq       int64
}

// Added is what became of batches that were to be stored.
type Added struct {
	JobID         string
	Before, Acked int64 // the newest batch that there was, and that there is
}

// Stored is a batch as it was kept.
type Stored struct {
	Position
	Data []byte
}

// OrgTelemetry is what is set for an org, and what it has.
type OrgTelemetry struct {
	Off, OffForAll bool
	Bytes, Quota   int64
	Keep           time.Duration
}

// Store keeps batches in SQL. Every call is of one org.
type Store interface {
	// AppendTelemetry stores those of the batches of an attempt that are newer than
	// what there is of it, and says which these are. Codes: too_large for an attempt or
	// an org that has as much as it may: then it stores none.
	AppendTelemetry(ctx context.Context, key nimbus.LogKey, batches []nimbus.TelemetryBatch, most Limits) (added Added, err error)
	// TelemetryBatches are those of a job that follow a position, at most so many.
	TelemetryBatches(ctx context.Context, orgID, jobID string, s nimbus.Signal, after Position, most int) ([]Stored, error)
	// CountTelemetry is how many items there are of a job.
	CountTelemetry(ctx context.Context, orgID, jobID string) (map[nimbus.Signal]int64, error)
	// ForgetTelemetry removes some batches that are older, or that are older than their
	// org keeps logs, and says how many; 0 when there are none.
	ForgetTelemetry(ctx context.Context, olderThan time.Duration) (n int, err error)
	OrgTelemetry(ctx context.Context, orgID string) (off bool, bytes int64, err error)
	SetOrgTelemetry(ctx context.Context, orgID string, off bool, e nimbus.AuditEvent) error
}

// Jobs are read to show their life. Codes: not_found.
type Jobs interface {
	Job(ctx context.Context, orgID, jobID string) (nimbus.Job, error)
}

// Steps are the lines that begin a job's steps, at most so many; nil where nobody
// can tell without reading a whole log.
type Steps func(ctx context.Context, key nimbus.LogKey, most int) ([]nimbus.Line, error)

// Observer counts.
type Observer interface {
	// TelemetryStored hears of each batch that came, with its items and bytes.
	TelemetryStored(s nimbus.Signal, items, bytes int)
	// TelemetryRefused hears of batches for which there was no room.
	TelemetryRefused(batches int)
}

// Forwarder hears of batches once they are stored. It must not wait.
type Forwarder interface {
	Forward(jobID string, b nimbus.TelemetryBatch)
}

// Config is what the room needs.
type Config struct {
	Store    Store
	Jobs     Jobs
	Steps    Steps // nil: none
	Limits   Limits
	Observer Observer
	Forward  Forwarder // nil: nobody
	// Lead has one replica of many do what is done for all; nil: this one.
	Lead func(context.Context, func(context.Context))
	Log  *slog.Logger
}

// Service is the room. It implements lifecycle.Service.
type Service struct {
	Config
	reading    chan struct{} // held by who has batches in memory
	readBudget int
}

// New makes it.
func New(cfg Config) *Service {
	cfg.Limits = cfg.Limits.withDefaults()
	return &Service{Config: cfg, reading: make(chan struct{}, readsAtOnce), readBudget: readBudget}
}

// Wanted tells whether an org's jobs have a receiver.
func (s *Service) Wanted(ctx context.Context, orgID string) (bool, error) {
	if s.Limits.Off {
		return false, nil
	}
	off, _, err := s.Store.OrgTelemetry(ctx, orgID)
	return !off, err
}

// Org tells what is set for an org, and what it has.
func (s *Service) Org(ctx context.Context, orgID string) (OrgTelemetry, error) {
	off, bytes, err := s.Store.OrgTelemetry(ctx, orgID)
	return OrgTelemetry{Off: off, OffForAll: s.Limits.Off, Bytes: bytes, Quota: s.Limits.Org, Keep: s.Limits.Keep}, err
}

// SetOrg sets it.
func (s *Service) SetOrg(ctx context.Context, orgID string, off bool, e nimbus.AuditEvent) error {
	return s.Store.SetOrgTelemetry(ctx, orgID, off, e)
}

// Append stores batches of an attempt whose lease was checked. Codes: invalid,
// too_large.
func (s *Service) Append(ctx context.Context, key nimbus.LogKey, batches []nimbus.TelemetryBatch) (acked int64, err error) {
	if len(batches) > nimbus.MaxTelemetryBatches {
		return 0, nimbus.Errorf(nimbus.CodeInvalid, "at most %d batches of telemetry come by one call", nimbus.MaxTelemetryBatches)
	}
	last := int64(0)
	for _, b := range batches {
		if b.Seq <= last || !b.Signal.Valid() || b.Items < 1 || b.Items > nimbus.MaxTelemetryItems || len(b.Data) == 0 || len(b.Data) > nimbus.MaxTelemetryBatch {
			return 0, nimbus.Errorf(nimbus.CodeInvalid, "batch %d of telemetry is out of bounds", b.Seq)
		}
		last = b.Seq
	}
	added, err := s.Store.AppendTelemetry(ctx, key, batches, s.Limits)
	if err != nil {
		if nimbus.ErrorCode(err) == nimbus.CodeTooLarge {
			s.Observer.TelemetryRefused(len(batches))
		}
		return 0, err
	}
	for _, b := range batches {
		if b.Seq <= added.Before {
			continue // it was sent again, since an answer was lost
		}
		s.Observer.TelemetryStored(b.Signal, b.Items, len(b.Data))
		if s.Forward != nil {
			s.Forward.Forward(added.JobID, b)
		}
	}
	return added.Acked, nil
}

// sweepInterval is how often what is old is looked for.
const sweepInterval = 10 * time.Minute

// Name implements lifecycle.Service.
func (*Service) Name() string { return "telemetry of jobs" }

// Run implements lifecycle.Service: it removes what is older than it may be, until
// ctx ends.
func (s *Service) Run(ctx context.Context, ready func()) error {
	ready()
	if s.Lead == nil {
		s.sweepLoop(ctx)
		return nil
	}
	s.Lead(ctx, s.sweepLoop)
	return nil
}

func (s *Service) sweepLoop(ctx context.Context) {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.Log.WarnContext(ctx, "removing old telemetry failed, it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Sweep removes what is older than it may be.
func (s *Service) Sweep(ctx context.Context) error {
	total := 0
	for ctx.Err() == nil {
		n, err := s.Store.ForgetTelemetry(ctx, s.Limits.Keep)
		if err != nil {
			return fmt.Errorf("remove old telemetry: %w", err)
		}
		if total += n; n == 0 {
			break
		}
	}
	if total > 0 {
		s.Log.InfoContext(ctx, "old telemetry was removed", "batches", total)
	}
	return nil
}
