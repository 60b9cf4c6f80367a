// Package telemetry is what the control plane tells of itself: metrics in the
// format of Prometheus, and a trace for each job by OTLP.
//
// Labels of metrics have few values, whoever uses Nimbus: no id, name or text
// that comes from a job, a repository or a host is one, but for
// the name of an org with what its cache is used for (caches.go), and that of a
// host with what it keeps of it (copies.go), of so many. Traces carry ids. Other rooms know none of this: each declares what it wants to be heard,
// and Metrics hears all of them.
package telemetry

import (
	"cmp"
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// Metrics counts. Its registry is its own: two servers in one process have two.
type Metrics struct {
	registry *prometheus.Registry
	onEnd    func(orgID, jobID string) // nil: nobody is told

	offered, accepted prometheus.Observer
	claimed           prometheus.Observer
	gathered          prometheus.Observer
	finished          *prometheus.CounterVec
	started           *prometheus.CounterVec
	starts            *prometheus.HistogramVec
	phases            *prometheus.HistogramVec
	cpuUsed, cpuHeld  *prometheus.CounterVec
	classes           classNames
	requeued          *prometheus.CounterVec
	reruns            *prometheus.CounterVec
	expired, fenced   prometheus.Counter
	delivered         *prometheus.CounterVec

	answered *prometheus.CounterVec
	answers  *prometheus.HistogramVec
	inFlight prometheus.Gauge
	refused  *prometheus.CounterVec

	transactions *prometheus.CounterVec
	transacting  *prometheus.HistogramVec
	retries      prometheus.Counter

	blobCalls *prometheus.CounterVec
	blobTimes *prometheus.HistogramVec
	blobMoved *prometheus.CounterVec

	mirrored *prometheus.CounterVec
	fetched  prometheus.Counter

	leads *prometheus.GaugeVec

	sent sent
}

// Buckets of histograms.
var (
	waitBuckets  = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 15, 60, 300, 1800, 7200}
	callBuckets  = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
	batchBuckets = []float64{1, 2, 4, 8, 16, 32, 64, 128, 256}
)

// NewMetrics returns the metrics of a server of a version.
func NewMetrics(version string) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "nimbus_build_info", Help: "1, with the version of the server and of Go as labels."},
		[]string{"version", "go"})
	build.WithLabelValues(version, runtime.Version()).Set(1)
	m.registry.MustRegister(build, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.registerJobs()
	m.registerRequests()
	m.registerStore()
	m.registerBlobs()
	m.registerMirrors()
	m.registerSent()
	return m
}

func (m *Metrics) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	m.registry.MustRegister(c)
	return c
}

func (m *Metrics) counters(name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	m.registry.MustRegister(c)
	return c
}

// histogram ends what a histogram tells of itself: the page of metrics would else
// not say which have buckets, a count and a sum.
const histogram = " A histogram."

func (m *Metrics) histograms(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help + histogram, Buckets: buckets}, labels)
	m.registry.MustRegister(h)
	return h
}

func (m *Metrics) registerJobs() {
	claims := m.histograms("nimbus_claim_wait_seconds",
		"Time that jobs take to be claimed: stage queued is from queued to offered, offered from offered to accepted.", waitBuckets, "stage")
	m.offered, m.accepted = claims.WithLabelValues("queued"), claims.WithLabelValues("offered")
	m.claimed = m.histograms("nimbus_claim_jobs", "Jobs offered by one claim.", batchBuckets).WithLabelValues()
	m.gathered = m.histograms("nimbus_batch_operations", "Operations that shared one transaction.", batchBuckets).WithLabelValues()
	m.finished = m.counters("nimbus_jobs_finished_total", "Jobs that ended, by where they came from and how they ended.", "source", "result")
	for _, source := range []nimbus.Source{nimbus.SourceNative, nimbus.SourceGitHub} {
		for _, result := range []nimbus.Result{nimbus.ResultSuccess, nimbus.ResultFailure, nimbus.ResultCancelled, nimbus.ResultTimedOut, nimbus.ResultLost} {
			m.finished.WithLabelValues(string(source), string(result))
		}
	}
	m.started = m.counters("nimbus_sandbox_starts_total",
		"Sandboxes that were ready for a job, by class and by where they came from: warm ones had waited, restored ones were made of a snapshot, cold ones from nothing.", "class", "origin")
	m.starts = m.histograms("nimbus_sandbox_start_seconds", "Time that jobs wait on their host for their sandbox, by executor and by where it came from.", waitBuckets, "executor", "origin")
	m.phases = m.histograms("nimbus_attempt_seconds",
		"Time that attempts take, by executor and part: sandbox until that is ready, start until the job runs, run to its end.", waitBuckets, "executor", "phase")
	m.cpuUsed = m.counters("nimbus_cpu_used_seconds_total", "CPU time that the sandboxes of attempts used, by class.", "class")
	m.cpuHeld = m.counters("nimbus_cpu_held_seconds_total", "CPU time that attempts had for themselves from being accepted to their end, used or not, by class.", "class")
	m.requeued = m.counters("nimbus_requeues_total", "Jobs that were given back to the queue, by why.", "reason")
	m.expired = m.counter("nimbus_lease_expiries_total", "Leases that ended because their host was not heard of.")
	m.reruns = m.counters("nimbus_github_reruns_total", "Runs in which jobs were lost and that GitHub was asked to run again, or was not.", "outcome")
	m.fenced = m.counter("nimbus_fenced_writes_total", "Writes and renewals that were refused because the lease was not their host's.")
	m.delivered = m.counters("nimbus_deliveries_total", "Webhooks that were verified and written to the ledger, by what became of them.", "outcome")
	for _, outcome := range []nimbus.DeliveryOutcome{nimbus.DeliveryAccepted, nimbus.DeliveryIgnored, nimbus.DeliveryDuplicate} {
		m.delivered.WithLabelValues(string(outcome))
	}
	m.leads = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "nimbus_leader", Help: "1 where this replica does the work alone for all, by work."}, []string{"work"})
	m.registry.MustRegister(m.leads)
}

func (m *Metrics) registerRequests() {
	m.answered = m.counters("nimbus_http_requests_total", "Requests by procedure or route and by the code of the answer.", "procedure", "code")
	m.answers = m.histograms("nimbus_http_request_seconds", "Time that requests take, long polls and streams included.", callBuckets, "procedure")
	m.inFlight = prometheus.NewGauge(prometheus.GaugeOpts{Name: "nimbus_http_in_flight", Help: "Requests that are being answered, long polls and streams included."})
	m.registry.MustRegister(m.inFlight)
	m.refused = m.counters("nimbus_rate_limited_total", "Requests that were refused by a rate limit, by which.", "limit")
}

func (m *Metrics) registerStore() {
	m.transactions = m.counters("nimbus_sql_transactions_total", "Transactions by kind and whether they were committed.", "kind", "committed")
	m.transacting = m.histograms("nimbus_sql_transaction_seconds", "Time that transactions take, with their retries and the wait for a connection.", callBuckets, "kind")
	m.retries = m.counter("nimbus_sql_retries_total", "Times that a transaction was run again because another one got in its way.")
}

func (m *Metrics) registerBlobs() {
	m.blobCalls = m.counters("nimbus_blob_calls_total", "Calls of the object store, each try one, by call and by the code of their error; ok where there was none.", "call", "code")
	m.blobTimes = m.histograms("nimbus_blob_call_seconds", "Time that calls of the object store take: of an upload until it is there, of a download until it begins.", callBuckets, "call")
	m.blobMoved = m.counters("nimbus_blob_bytes_total", "Bytes that were read from the object store, or written to it.", "direction")
	for _, direction := range []string{"read", "written"} {
		m.blobMoved.WithLabelValues(direction)
	}
}

// BlobCalled implements meter.Observer, of blobs.
func (m *Metrics) BlobCalled(op string, code nimbus.Code, took time.Duration) {
	m.blobCalls.WithLabelValues(op, cmp.Or(string(code), "ok")).Inc()
	m.blobTimes.WithLabelValues(op).Observe(took.Seconds())
}

// BlobMoved implements meter.Observer, of blobs.
func (m *Metrics) BlobMoved(written bool, bytes int64) {
	direction := "read"
	if written {
		direction = "written"
	}
	m.blobMoved.WithLabelValues(direction).Add(float64(bytes))
}

// OnEnd has f told of each job whose end was committed here. It is for before
// anything is counted, and returns at once.
func (m *Metrics) OnEnd(f func(orgID, jobID string)) { m.onEnd = f }

// Committed implements scheduler.Observer.
func (m *Metrics) Committed(t *scheduler.Tally) {
	if t.Operations > 0 {
		m.gathered.Observe(float64(t.Operations))
	}
	if len(t.Offered) > 0 {
		m.claimed.Observe(float64(len(t.Offered)))
	}
	for _, wait := range t.Offered {
		m.offered.Observe(wait.Seconds())
	}
	for _, wait := range t.Accepted {
		m.accepted.Observe(wait.Seconds())
	}
	for _, s := range t.Started {
		m.started.WithLabelValues(m.classes.label(s.Class), string(s.Origin)).Inc()
		m.starts.WithLabelValues(cmp.Or(s.Class.Executor, "any"), string(s.Origin)).Observe(s.Took.Seconds())
	}
	for _, e := range t.Ended {
		m.ended(e)
	}
	for _, why := range t.Requeued {
		m.requeued.WithLabelValues(string(why)).Inc()
	}
	m.expired.Add(float64(t.Expired))
	m.reruns.WithLabelValues("asked").Add(float64(t.Reruns))
	m.reruns.WithLabelValues("dropped").Add(float64(t.RerunsDropped))
	for _, f := range t.Finished {
		m.finished.WithLabelValues(string(f.Source), string(f.Result)).Inc()
		if m.onEnd != nil {
			m.onEnd(f.OrgID, f.JobID)
		}
	}
}

// ended counts an attempt.
func (m *Metrics) ended(e scheduler.Ended) {
	for _, p := range nimbus.RunPhases() {
		if took, ok := e.Run.Took(p); ok {
			m.phases.WithLabelValues(cmp.Or(e.Class.Executor, "any"), string(p)).Observe(took.Seconds())
		}
	}
	class := m.classes.label(e.Class)
	m.cpuUsed.WithLabelValues(class).Add(e.Run.Usage.CPUTime.Seconds())
	if held := e.Run.FinishedAt.Sub(e.Run.AcceptedAt); !e.Run.AcceptedAt.IsZero() && held > 0 {
		m.cpuHeld.WithLabelValues(class).Add(held.Seconds() * float64(e.Class.CPUs))
	}
}

// Fenced implements scheduler.Observer.
func (m *Metrics) Fenced(n int) { m.fenced.Add(float64(n)) }

// Delivered implements scheduler.Observer.
func (m *Metrics) Delivered(o nimbus.DeliveryOutcome) { m.delivered.WithLabelValues(string(o)).Inc() }

// Transacted implements store.Observer.
func (m *Metrics) Transacted(write bool, tries int, took time.Duration, err error) {
	kind := "read"
	if write {
		kind = "write"
	}
	m.transactions.WithLabelValues(kind, strconv.FormatBool(err == nil)).Inc()
	m.transacting.WithLabelValues(kind).Observe(took.Seconds())
	m.retries.Add(float64(max(tries-1, 0)))
}

// Asked implements httpapi.Observer.
func (m *Metrics) Asked() { m.inFlight.Inc() }

// Answered implements httpapi.Observer.
func (m *Metrics) Answered(procedure, code string, took time.Duration) {
	m.inFlight.Dec()
	m.answered.WithLabelValues(procedure, code).Inc()
	m.answers.WithLabelValues(procedure).Observe(took.Seconds())
}

// Refused implements httpapi.Observer.
func (m *Metrics) Refused(limit string) { m.refused.WithLabelValues(limit).Inc() }

// Leads notes whether this replica does a work.
func (m *Metrics) Leads(work string, leads bool) {
	value := 0.0
	if leads {
		value = 1
	}
	m.leads.WithLabelValues(work).Set(value)
}

// Gauge has a number told as it is when metrics are read. value returns soon.
func (m *Metrics) Gauge(name, help string, value func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
}

// Count is Gauge of a number that only grows.
func (m *Metrics) Count(name, help string, value func() float64) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, value))
}

// Watch has a gauge asked when metrics are read. is returns at once.
func (m *Metrics) Watch(name, help string, is func() bool) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
		if is() {
			return 1
		}
		return 0
	}))
}
