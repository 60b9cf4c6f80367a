package server

import (
	"context"
	"fmt"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob/breaker"
	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/httpapi"
	"github.com/nimbus-ci/nimbus/internal/logs"
	"github.com/nimbus-ci/nimbus/internal/logs/clickhouse"
	"github.com/nimbus-ci/nimbus/internal/ratelimit"
	"github.com/nimbus-ci/nimbus/internal/ratelimit/redis"
	"github.com/nimbus-ci/nimbus/internal/registry"
	"github.com/nimbus-ci/nimbus/internal/telemetry"
	"github.com/nimbus-ci/nimbus/internal/traces"
)

// Operations is how a server is watched, and kept from who asks too much. The
// zero value is a good default.
type Operations struct {
	Version string          // as metrics and traces tell it
	Limits  httpapi.Limits  // how often who may call
	Origins httpapi.Origins // from where
	// OTLP is the base URL of where traces of jobs are sent, "" for nowhere.
	OTLP string
	// SendOn has what jobs tell by OTLP sent there, too.
	SendOn bool
	// Telemetry bounds what is kept of it.
	Telemetry traces.Limits
	// Cache bounds what jobs save for later ones.
	Cache cache.Limits
	// Artifacts has jobs of a run give each other artifacts here.
	Artifacts bool
	// Drain is how long a server that stops still answers while /readyz says
	// that it is not ready, so that load balancers stop sending.
	Drain time.Duration
	// Registry bounds what is kept of images. Zero fields mean the usual.
	Registry registry.Limits
	// ClickHouse is where logs are kept for long; nil for nowhere but here.
	ClickHouse *clickhouse.Config
	// LogsLocal is how long after its end a log is kept here, too, where there is
	// ClickHouse. Default: a day.
	LogsLocal time.Duration
	// MirrorInside are registries, HOST:PORT, that mirrors may ask though they are at
	// addresses of the operator's own network.
	MirrorInside []string
}

// openMetrics comes before all that is counted.
func (s *Server) openMetrics() {
	s.metrics = telemetry.NewMetrics(s.cfg.Version)
}

// openTraces has a trace sent of each job that ends, where that is asked for.
func (s *Server) openTraces(ctx context.Context) error {
	if s.cfg.OTLP == "" {
		return nil
	}
	tracer, err := telemetry.NewTracer(ctx, s.cfg.OTLP, s.cfg.Version, s.scheduler, s.metrics, s.cfg.Log)
	if err != nil {
		return err
	}
	s.metrics.OnEnd(tracer.Ended)
	s.services = append(s.services, tracer) // before the scheduler, and so stopped after it
	return nil
}

// openTelemetry keeps what jobs tell by OTLP, and sends it on where that is asked
// for.
func (s *Server) openTelemetry() error {
	cfg := traces.Config{Store: s.store, Jobs: s.scheduler, Limits: s.cfg.Telemetry, Observer: s.metrics, Lead: s.leadTelem, Log: s.cfg.Log}
	if finder, ok := s.logs.(logs.Searcher); ok {
		cfg.Steps = stepsBy(finder)
	}
	if s.cfg.SendOn && s.cfg.OTLP == "" {
		return nimbus.Errorf(nimbus.CodeInvalid, "telemetry of jobs is to be sent on, and it is not said where to").WithHint("--otlp-endpoint says where to")
	}
	if s.cfg.SendOn {
		forwarder, err := telemetry.NewForwarder(s.cfg.OTLP, s.metrics, s.cfg.Log)
		if err != nil {
			return err
		}
		cfg.Forward = forwarder
		s.services = append(s.services, forwarder)
	}
	s.traces = traces.New(cfg)
	s.services = append(s.services, s.traces)
	return nil
}

// stepPages bounds how many pages of a search are asked for the steps of one log.
const stepPages = 20

// stepsBy finds the lines that begin steps.
func stepsBy(finder logs.Searcher) traces.Steps {
	return func(ctx context.Context, key nimbus.LogKey, most int) (lines []nimbus.Line, err error) {
		q := logs.Query{Attempts: []string{key.AttemptID}, Streams: []nimbus.Stream{nimbus.StreamStep}}
		for range stepPages { // a page of a long log ends where it took too long
			q.Limit = most - len(lines)
			page, err := finder.Search(ctx, key.OrgID, q)
			if err != nil {
				return nil, err
			}
			for _, f := range page.Found {
				lines = append(lines, f.Line)
			}
			if q.After = page.Next; q.After == "" || len(lines) >= most {
				break
			}
		}
		return lines, nil
	}
}

// openLimits has all replicas count together by a Redis, and each alone while
// that is gone.
func (s *Server) openLimits(url string) error {
	shared, err := redis.Open(url, redis.DefaultTimeout)
	if err != nil {
		return err
	}
	limits := ratelimit.NewFallback(shared, ratelimit.NewLocal(nimbus.SystemClock{}, ratelimit.DefaultKeys), s.cfg.Log)
	s.closers = append(s.closers, shared.Close)
	s.services = append(s.services, limits)
	s.limiter, s.alone = limits, limits.Alone
	return nil
}

// watch has metrics tell of what the rooms do not count.
func (s *Server) watch() {
	s.metrics.ReadBooks(s.store, s.cfg.Log)
	s.metrics.ReadCopies(func(ctx context.Context, most int) ([]nimbus.Host, error) {
		hosts, _, err := s.scheduler.HostPage(ctx, most, "")
		return hosts, err
	}, s.cfg.Log)
	s.metrics.Watch("nimbus_bus_connected", "1 while other replicas can be woken; always 1 where there is one alone.", func() bool {
		return s.connected == nil || s.connected()
	})
	s.metrics.Watch("nimbus_rate_limits_shared", "1 while rate limits are held by all replicas together, 0 while Redis is gone and each holds them alone.", func() bool {
		return s.alone == nil || !s.alone()
	})
	s.metrics.Watch("nimbus_blob_store_connected", "1 while the object store is not taken for away; always 1 where there is none.", func() bool {
		return s.objects == nil || s.objects.State() == breaker.Closed
	})
}

// leading tells the metrics while this replica leads.
func (s *Server) leading(work string, lead func(context.Context, func(context.Context))) func(context.Context, func(context.Context)) {
	s.metrics.Leads(work, false)
	return func(ctx context.Context, do func(context.Context)) {
		lead(ctx, func(ctx context.Context) {
			s.metrics.Leads(work, true)
			defer s.metrics.Leads(work, false)
			do(ctx)
		})
	}
}

// drain has /readyz say that no more requests should come.
func (s *Server) drain() { s.draining.Store(true) }

// checks are what /readyz looks at.
func (s *Server) checks() []httpapi.Check {
	checks := []httpapi.Check{
		{Name: "running", Needed: true, Do: func(context.Context) error {
			if s.draining.Load() {
				return nimbus.Errorf(nimbus.CodeUnavailable, "it is stopping")
			}
			return nil
		}},
		{Name: "database", Needed: true, Do: s.store.Ping},
		{Name: "migrations", Needed: true, Do: s.store.Current},
	}
	if s.ping != nil {
		checks = append(checks, httpapi.Check{Name: "redis", Do: s.ping})
	}
	if s.objects != nil { // without it GitHub's jobs go on
		checks = append(checks, httpapi.Check{Name: "object store", Do: s.objects.Check})
	}
	if s.copies != nil { // without it logs wait to be copied, and older ones can't be read
		checks = append(checks, httpapi.Check{Name: "clickhouse", Do: s.copies.tables.Check})
	}
	return checks
}

// admitDelivery takes a delivery where its installation has not sent too many.
// One that is refused is not in the ledger: GitHub shows it as failed, and may
// deliver it again.
func (s *Server) admitDelivery(ctx context.Context, d nimbus.Delivery, ev *nimbus.ForgeEvent) (nimbus.DeliveryOutcome, error) {
	owner := ""
	if ev != nil {
		owner = ev.Job.Owner
	}
	if err := s.gate.Delivery(ctx, d.InstallationID, owner); err != nil {
		return "", fmt.Errorf("take delivery %s: %w", d.ID, err)
	}
	return s.scheduler.ProcessDelivery(ctx, d, ev)
}
