// Package shells carries terminals between who opens them and the sandboxes of
// jobs. Neither side can be reached: both ask, each whichever replica its
// connection leads to. What passes lies in the database in between, in batches
// that are numbered, bounded and acknowledged; the bus only wakes who waits. So
// no replica has to find another one, and one that is replaced ends no shell.
// See docs/adr/0014-shell-sessions.md.
package shells

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/bus"
	"github.com/nimbus-ci/nimbus/internal/logs"
)

// Side is where a batch goes.
type Side string

// The sides.
const (
	ToShell   Side = "in"
	FromShell Side = "out"
)

// Batch is one of what passes, sealed while it lies in the store.
type Batch struct {
	Seq  int64
	Body []byte
}

// Standing is a shell and how it stands.
type Standing struct {
	nimbus.Shell

	Now        time.Time // by the database's clock, as all of these
	Fence      int64     // of its lease; 0 for one that does not hold
	ActiveAt   time.Time // when something passed last
	UserSeenAt time.Time
	HostSeenAt time.Time
	Sent       map[Side]int64 // the last batch of each side
	Bytes      map[Side]int64 // of those that were not received yet
}

// Store keeps shells. Errors carry a nimbus.Code: not_found, conflict,
// unavailable.
type Store interface {
	// OpenShell opens one in a job of an org that has a sandbox now, and tells
	// the audit ledger. Codes: not_found, conflict, unsupported, rate_limited.
	OpenShell(ctx context.Context, s nimbus.Shell, validFor time.Duration) (nimbus.Shell, error)
	Shell(ctx context.Context, id string) (Standing, error)
	// OpenShells are those that have not ended, with ids after one.
	OpenShells(ctx context.Context, after string) ([]Standing, error)
	ShellsOfHost(ctx context.Context, hostID string) (ids []string, err error)
	ShellsOfJob(ctx context.Context, orgID, jobID string) ([]nimbus.Shell, error)
	AttachShell(ctx context.Context, id string) error
	// SeeShell notes that who receives of a side was there some time ago.
	SeeShell(ctx context.Context, id string, receives Side, ago time.Duration) error
	// PutBatch keeps a batch that follows the last one of its side. Codes:
	// conflict for any other, or a shell that has ended.
	PutBatch(ctx context.Context, id string, side Side, seq int64, body []byte) error
	Batches(ctx context.Context, id string, side Side, after int64) ([]Batch, error)
	// FreeBatches drops those up to one, and notes that their receiver is there.
	FreeBatches(ctx context.Context, id string, side Side, upTo int64) error
	RecordShell(ctx context.Context, id string, lines int64) error
	// EndShell ends one that has not ended, and tells the audit ledger.
	EndShell(ctx context.Context, id string, end nimbus.ShellEnd, actor string) (ended bool, err error)
	// ForgetShells drops output that nobody came for since its shell ended.
	ForgetShells(ctx context.Context, endedFor time.Duration) error
}

// Sealer keeps what lies in the database from who reads the database, its
// backups and its journals.
type Sealer interface {
	Seal(orgID, name string, secret []byte) ([]byte, error)
	Open(orgID, name string, sealed []byte) ([]byte, error)
}

// Config is what the service needs.
type Config struct {
	Store  Store
	Sealer Sealer
	Logs   logs.Store
	Bus    bus.Bus
	// Look is how often who waits looks into the store by itself: often where
	// the bus does not reach all replicas.
	Look time.Duration
	// Lead has one replica of many do what is done for all; nil: this one.
	Lead func(context.Context, func(context.Context))
	Log  *slog.Logger
}

// Service is the switchboard of shells. It implements lifecycle.Service.
type Service struct{ cfg Config }

// New returns the service.
func New(cfg Config) *Service { return &Service{cfg: cfg} }

// Times.
const (
	// MaxWait is the longest that one call waits for what comes.
	MaxWait = 20 * time.Second
	// roomWait is how long a batch waits for room before its sender is asked to
	// come back.
	roomWait = 10 * time.Second
	// attachWithin is how long a host may take to come for a shell.
	attachWithin = 20 * time.Second
	// goneAfter is how long neither side may be silent. seenAgain is how often
	// it is written that one is there.
	goneAfter = 45 * time.Second
	seenAgain = 5 * time.Second
	// hungUpGrace is how long who broke a call off may take to come back.
	hungUpGrace = 10 * time.Second
	// keptFor is how long output waits for who opened a shell that has ended.
	keptFor      = time.Minute
	sweepEvery   = 2 * time.Second
	endedTimeout = 5 * time.Second
)

// Bounds.
const (
	// MaxBatch bounds a batch in bytes.
	MaxBatch = 300 << 10
	// roomBytes is how much of one side lies in the store at most, and one
	// batch more.
	roomBytes = 1 << 20
	// pageBytes is from where on an answer takes no further batch.
	pageBytes = 256 << 10
)

// Open opens a shell in a job of an org. Codes: invalid, not_found, conflict,
// unsupported, rate_limited.
func (s *Service) Open(ctx context.Context, p nimbus.Principal, orgID, jobID, from string, spec nimbus.ShellSpec, validFor time.Duration) (nimbus.Shell, error) {
	if err := spec.Check(); err != nil {
		return nimbus.Shell{}, err
	}
	if validFor == 0 {
		validFor = nimbus.MaxShellFor
	}
	if validFor < 0 || validFor > nimbus.MaxShellFor {
		return nimbus.Shell{}, nimbus.Errorf(nimbus.CodeInvalid, "a shell is open for at most %v, not %v", nimbus.MaxShellFor, validFor)
	}
	sh, err := s.cfg.Store.OpenShell(ctx, nimbus.Shell{OrgID: orgID, JobID: jobID, Actor: p.Actor(), From: from, Spec: spec}, validFor)
	if err != nil {
		return sh, err
	}
	s.cfg.Bus.Publish(ctx, bus.HostTopic(sh.HostID), nil)
	return sh, nil
}

// List are the shells of a job, newest first.
func (s *Service) List(ctx context.Context, orgID, jobID string) ([]nimbus.Shell, error) {
	return s.cfg.Store.ShellsOfJob(ctx, orgID, jobID)
}

// Recorded is a shell of a job that has a recording. Codes: not_found.
func (s *Service) Recorded(ctx context.Context, orgID, jobID, shellID string) (nimbus.Shell, error) {
	st, err := s.cfg.Store.Shell(ctx, shellID)
	if err != nil {
		return nimbus.Shell{}, err
	}
	if st.OrgID != orgID || st.JobID != jobID {
		return nimbus.Shell{}, noShell()
	}
	if st.RecordedLines == 0 {
		return nimbus.Shell{}, nimbus.Errorf(nimbus.CodeNotFound, "nothing of this shell was recorded")
	}
	return st.Shell, nil
}

func noShell() error { return nimbus.Errorf(nimbus.CodeNotFound, "there is no such shell") }

// ofUser is a shell of who calls; nobody else's exists for him.
func (s *Service) ofUser(ctx context.Context, p nimbus.Principal, orgID, shellID string) (Standing, error) {
	st, err := s.cfg.Store.Shell(ctx, shellID)
	if err != nil {
		return st, err
	}
	if st.OrgID != orgID || st.Actor != p.Actor() {
		return Standing{}, noShell()
	}
	return s.judged(ctx, st)
}

// ofHost is a shell in an attempt of which the host holds the lease. Codes:
// not_found, fenced.
func (s *Service) ofHost(ctx context.Context, hostID string, l nimbus.Lease, shellID string) (Standing, error) {
	st, err := s.cfg.Store.Shell(ctx, shellID)
	if err != nil {
		return st, err
	}
	if st.HostID != hostID || st.AttemptID != l.AttemptID {
		return Standing{}, noShell()
	}
	if st, err = s.judged(ctx, st); err != nil {
		return st, err
	}
	if st.State != nimbus.ShellEnded && st.Fence != l.Fence {
		return Standing{}, nimbus.Errorf(nimbus.CodeFenced, "the lease on attempt %s is not this host's", l.AttemptID)
	}
	return st, nil
}

// judged ends a shell that may not go on.
func (s *Service) judged(ctx context.Context, st Standing) (Standing, error) {
	end, over := st.over()
	if !over {
		return st, nil
	}
	if err := s.end(ctx, st.ID, end, nimbus.AuditSystem); err != nil {
		return st, err
	}
	return s.cfg.Store.Shell(ctx, st.ID)
}

// over tells why a shell may not go on.
func (st Standing) over() (nimbus.ShellEnd, bool) {
	why := func(r nimbus.ShellReason, format string, args ...any) (nimbus.ShellEnd, bool) {
		return nimbus.ShellEnd{Reason: r, Message: fmt.Sprintf(format, args...)}, true
	}
	switch {
	case st.State == nimbus.ShellEnded:
		return nimbus.ShellEnd{}, false
	case st.Fence == 0:
		return why(nimbus.ShellJobEnded, "the job has ended, and its sandbox with it")
	case !st.Now.Before(st.EndsAt):
		return why(nimbus.ShellExpired, "it was open for %v, which is as long as it may be", st.EndsAt.Sub(st.OpenedAt))
	case st.State == nimbus.ShellWaiting && st.Now.Sub(st.OpenedAt) > attachWithin:
		return why(nimbus.ShellHostGone, "the job's host did not come for it within %v", attachWithin)
	case st.State == nimbus.ShellOpen && st.Now.Sub(st.HostSeenAt) > goneAfter:
		return why(nimbus.ShellHostGone, "the job's host was not heard of for %v", goneAfter)
	case st.Now.Sub(st.UserSeenAt) > goneAfter:
		return why(nimbus.ShellUserGone, "who opened it was not heard of any more")
	case st.Now.Sub(st.ActiveAt) > nimbus.MaxShellIdle:
		return why(nimbus.ShellIdle, "nothing passed for %v", nimbus.MaxShellIdle)
	}
	return nimbus.ShellEnd{}, false
}

// end ends a shell, and wakes both of its sides.
func (s *Service) end(ctx context.Context, id string, end nimbus.ShellEnd, actor string) error {
	_, err := s.cfg.Store.EndShell(ctx, id, end.Clipped(), actor)
	if err != nil {
		return err
	}
	s.wake(ctx, id)
	return nil
}

func (s *Service) wake(ctx context.Context, id string) {
	s.cfg.Bus.Publish(ctx, bus.ShellTopic(id), nil)
}

// Opened and EndedBy are what the audit ledger is told, with the effect.
func Opened(sh nimbus.Shell) nimbus.AuditEvent {
	detail := map[string]string{"job": sh.JobID, "host": sh.HostID, "from": sh.From, "until": sh.EndsAt.UTC().Format(time.RFC3339)}
	if sh.Spec.Terminal == (nimbus.Window{}) {
		detail["terminal"] = "no"
	}
	return nimbus.AuditEvent{OrgID: sh.OrgID, Actor: sh.Actor, Action: "shell.open", Target: sh.ID, Outcome: nimbus.AuditAllowed, Detail: detail}
}

// EndedBy tells of an end, and who made it.
func EndedBy(sh nimbus.Shell, actor string) nimbus.AuditEvent {
	detail := map[string]string{"job": sh.JobID, "reason": string(sh.End.Reason), "opened_by": sh.Actor,
		"seconds": strconv.FormatInt(int64(sh.EndedAt.Sub(sh.OpenedAt).Seconds()), 10), "recorded_lines": strconv.FormatInt(sh.RecordedLines, 10)}
	if sh.End.Code != nil {
		detail["exit_code"] = strconv.Itoa(*sh.End.Code)
	}
	return nimbus.AuditEvent{OrgID: sh.OrgID, Actor: actor, Action: "shell.end", Target: sh.ID, Outcome: nimbus.AuditAllowed, Detail: detail}
}
