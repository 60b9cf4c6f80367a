package scheduler

import (
	"context"
	"log/slog"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/bus"
)

// Config is how the scheduler behaves. The zero value is a good default.
type Config struct {
	// AllowTrustedLocal lets webhook jobs run on the local executor, which
	// isolates no better than namespaces do. Native jobs always may.
	AllowTrustedLocal bool
	// StaleAfter is the age from which a queued event is not believed before
	// GitHub was asked. Default 10 min.
	StaleAfter time.Duration
}

// Service schedules jobs. All methods may be called concurrently; errors are
// *nimbus.Error where a caller can do something about them.
type Service struct {
	cfg    Config
	store  Store
	bus    bus.Bus
	forge  Forge
	tokens JobTokens
	log    *slog.Logger
}

// New returns a service. Its Run must run for leases to expire.
func New(cfg Config, store Store, b bus.Bus, forge Forge, tokens JobTokens, log *slog.Logger) *Service {
	return &Service{cfg: cfg, store: store, bus: b, forge: forge, tokens: tokens, log: log}
}

// Name implements lifecycle.Service.
func (s *Service) Name() string { return "scheduler" }

var errUnbuilt = nimbus.Errorf(nimbus.CodeUnsupported, "not built yet")

// Run implements lifecycle.Service: it sweeps until ctx ends.
func (s *Service) Run(ctx context.Context, ready func()) error { ready(); <-ctx.Done(); return nil }

// Submit admits a native job. Repeating it with the same idempotency key
// returns the job of the first call.
func (s *Service) Submit(ctx context.Context, p nimbus.Principal, sub Submission) (nimbus.Job, error) {
	return nimbus.Job{}, errUnbuilt
}

// Job returns a job of an org. Codes: not_found, also across orgs.
func (s *Service) Job(ctx context.Context, orgID, jobID string) (nimbus.Job, error) {
	return nimbus.Job{}, errUnbuilt
}

// Jobs lists the jobs of an org, newest first.
func (s *Service) Jobs(ctx context.Context, orgID string, f JobFilter) (JobPage, error) {
	return JobPage{}, errUnbuilt
}

// Events returns the history of a job in order. Codes: not_found.
func (s *Service) Events(ctx context.Context, orgID, jobID string) ([]nimbus.JobEvent, error) {
	return nil, errUnbuilt
}

// Cancel stops a job wherever it is. A finished job is returned as it is.
func (s *Service) Cancel(ctx context.Context, p nimbus.Principal, orgID, jobID string) (nimbus.Job, error) {
	return nimbus.Job{}, errUnbuilt
}

// Hosts lists all hosts.
func (s *Service) Hosts(ctx context.Context) ([]nimbus.Host, error) { return nil, errUnbuilt }

// RegisterHost makes a host. The caller has checked its right to join.
func (s *Service) RegisterHost(ctx context.Context, name, version string, inv nimbus.Inventory) (nimbus.Host, error) {
	return nimbus.Host{}, errUnbuilt
}

// Hello tells what a starting agent has, and which leases it still holds.
func (s *Service) Hello(ctx context.Context, hostID, version string, inv nimbus.Inventory, leases []nimbus.Lease) ([]nimbus.LeaseStatus, error) {
	return nil, errUnbuilt
}

// Poll waits up to wait for work, or for something to cancel.
func (s *Service) Poll(ctx context.Context, hostID string, free nimbus.Capacity, wait time.Duration) (PollResult, error) {
	return PollResult{}, errUnbuilt
}

// Accept turns an offer into an assignment. Repeating it is safe. Codes: fenced.
func (s *Service) Accept(ctx context.Context, hostID string, l nimbus.Lease) (nimbus.Assignment, error) {
	return nimbus.Assignment{}, errUnbuilt
}

// Heartbeat renews leases; each gets its verdict.
func (s *Service) Heartbeat(ctx context.Context, hostID string, leases []nimbus.Lease) ([]nimbus.LeaseStatus, error) {
	return nil, errUnbuilt
}

// ReportPhase records how far an attempt is. Codes: fenced.
func (s *Service) ReportPhase(ctx context.Context, hostID string, l nimbus.Lease, p nimbus.Phase) error {
	return errUnbuilt
}

// CreateRunner registers the GitHub runner of an attempt. Codes: fenced,
// conflict (the attempt is over), and those of Forge.
func (s *Service) CreateRunner(ctx context.Context, hostID string, l nimbus.Lease) (nimbus.Runner, string, error) {
	return nimbus.Runner{}, "", errUnbuilt
}

// Finish records how the process of an attempt ended. Repeating it is safe.
// Codes: fenced.
func (s *Service) Finish(ctx context.Context, hostID string, l nimbus.Lease, o nimbus.Outcome) error {
	return errUnbuilt
}

// LogLease names the log that a lease may write: while it lives, and after its
// end until the log is complete. Codes: fenced.
func (s *Service) LogLease(ctx context.Context, hostID string, l nimbus.Lease) (nimbus.LogKey, error) {
	return nimbus.LogKey{}, errUnbuilt
}

// LogStored records that all lines up to lines are stored.
func (s *Service) LogStored(ctx context.Context, key nimbus.LogKey, lines int64) error {
	return errUnbuilt
}

// ProcessDelivery records a webhook and does what it asks for, in one
// transaction. A delivery seen before has no effect. ev is nil for an event
// that means nothing to Nimbus.
func (s *Service) ProcessDelivery(ctx context.Context, d nimbus.Delivery, ev *nimbus.ForgeEvent) (nimbus.DeliveryOutcome, error) {
	return "", errUnbuilt
}
