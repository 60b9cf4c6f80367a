package telemetry_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// TestMetricsTellWhatHappens plays jobs through their ends, good and bad.
func TestMetricsTellWhatHappens(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	done, lost, waits := w.submit(1), w.submit(2), w.submit(4)
	first := w.take()
	second := w.take()
	w.end(first)
	if err := w.Finish(t.Context(), w.host.ID, nimbus.Lease{AttemptID: second.AttemptID, Fence: second.Fence + 1}, nimbus.Outcome{Result: nimbus.ResultSuccess}); nimbus.ErrorCode(err) != nimbus.CodeFenced {
		t.Fatalf("a stale write: %v", err)
	}
	_, err := w.Heartbeat(t.Context(), w.host.ID, []nimbus.Lease{{AttemptID: first.AttemptID, Fence: first.Fence}})
	w.must(err)
	for _, id := range []string{"a-delivery", "a-delivery", "another"} {
		_, err := w.ProcessDelivery(t.Context(), nimbus.Delivery{ID: id, Event: "push"}, nil)
		w.must(err)
	}
	w.must(w.store.OffsetClock(t.Context(), nimbus.LeaseDuration+time.Second)) // the host goes silent
	w.run()
	w.await("the lease expires", func() bool { return w.sample("nimbus_lease_expiries_total") == 1 })
	// What the books say is read anew after some seconds.
	w.await("what waits is told", func() bool { return w.sample("nimbus_queue_jobs") == 2 })
	for _, c := range []struct {
		want   float64
		name   string
		values []string
	}{
		{2, "nimbus_claim_wait_seconds", []string{"queued"}},
		{2, "nimbus_claim_wait_seconds", []string{"offered"}},
		{2, "nimbus_claim_jobs", nil},
		{1, "nimbus_sandbox_starts_total", []string{"local-1cpu-1024mib", "warm"}},
		{1, "nimbus_sandbox_starts_total", nil},
		{1, "nimbus_sandbox_start_seconds", []string{"local", "warm"}},
		{1, "nimbus_attempt_seconds", []string{"local", "sandbox"}},
		{1, "nimbus_attempt_seconds", []string{"local", "start"}},
		{1, "nimbus_attempt_seconds", []string{"local", "run"}},
		{0, "nimbus_attempt_seconds", []string{"queue"}},
		{3, "nimbus_cpu_used_seconds_total", []string{"local-1cpu-1024mib"}},
		{1, "nimbus_jobs_finished_total", []string{"native", "success"}},
		{1, "nimbus_jobs_finished_total", nil},
		{1, "nimbus_requeues_total", []string{string(nimbus.ReasonLeaseExpired)}},
		{1, "nimbus_requeues_total", nil},
		{2, "nimbus_fenced_writes_total", nil}, // the write and the renewal
		{2, "nimbus_deliveries_total", []string{"ignored"}},
		{1, "nimbus_deliveries_total", []string{"duplicate"}},
		{1, "nimbus_hosts", []string{"away"}},
		{2, "nimbus_queue_jobs", nil},
		{1, "nimbus_queue_jobs", []string{"local-4cpu-1024mib"}},
		{0, "nimbus_sql_transactions_total", []string{"write", "nonsense"}},
	} {
		if got := w.sample(c.name, c.values...); got != c.want {
			t.Errorf("%s%v is %v, want %v (jobs %s, %s, %s)", c.name, c.values, got, c.want, done.ID, lost.ID, waits.ID)
		}
	}
	if age := w.sample("nimbus_queue_oldest_seconds", "local-4cpu-1024mib"); age < nimbus.LeaseDuration.Seconds() {
		t.Errorf("the oldest job waits %v s", age)
	}
	for _, busy := range []string{"nimbus_cpu_held_seconds_total", "nimbus_batch_operations", "nimbus_sql_transaction_seconds", "nimbus_sql_transactions_total"} {
		if w.sample(busy) == 0 {
			t.Errorf("%s tells nothing", busy)
		}
	}
}

// ids and free text that must be in no label.
var forbidden = regexp.MustCompile(`(job|org|repo|host|att|tok|user|sbx|del|cls)_[0-9a-z]{8,}|a-jobs-name|a-hosts-name|an-image|a-value|a-delivery|owner/`)

// TestLabelsHaveFewValues: whatever jobs, hosts and orgs are called, and however
// many sizes jobs ask for.
func TestLabelsHaveFewValues(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const sizes = 60
	for i := range sizes {
		w.submit(1 + i)
	}
	w.end(w.take())
	w.metrics.Asked()
	w.metrics.Answered("/nimbus.v1.JobService/GetJob", "ok", time.Second)
	w.metrics.Transacted(true, 3, time.Second, errors.New("some text"))
	w.metrics.Refused("api")
	w.metrics.Leads("scheduler", true)
	families, err := w.metrics.Gatherer().Gather()
	w.must(err)
	series := map[string]int{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			series[f.GetName()]++
			for _, l := range m.GetLabel() {
				if forbidden.MatchString(l.GetValue()) {
					t.Errorf("%s{%s=%q} tells of one thing of many", f.GetName(), l.GetName(), l.GetValue())
				}
			}
		}
	}
	for name, n := range series {
		if n > 70 {
			t.Errorf("%s has %d series", name, n)
		}
	}
	if got := w.sample("nimbus_queue_jobs"); got != sizes-1 {
		t.Errorf("%v jobs are told, want %d: the sizes that have no series of their own are added up", got, sizes-1)
	}
	if w.sample("nimbus_queue_jobs", "other") == 0 {
		t.Error("no size is told as other")
	}
}

// TestMetricsAreReadable: in Prometheus' text format, also when the books can't
// be read, which is told by what is not there.
func TestMetricsAreReadable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	read := func() string {
		t.Helper()
		r := httptest.NewRecorder()
		w.metrics.Handler(w.log).ServeHTTP(r, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		if r.Code != http.StatusOK {
			t.Fatalf("answered %d %s", r.Code, r.Body)
		}
		return r.Body.String()
	}
	if got := read(); !strings.Contains(got, `nimbus_hosts{state="ready"} 1`) || !strings.Contains(got, "go_goroutines ") ||
		!strings.Contains(got, `nimbus_build_info{`) || !strings.Contains(got, "process_open_fds ") {
		t.Errorf("the metrics are %s", got)
	}
	gone := newWorld(t)
	w = gone
	w.must(w.store.Close())
	if got := read(); strings.Contains(got, "nimbus_hosts{") || !strings.Contains(got, "nimbus_build_info{") {
		t.Errorf("without books the metrics are %s", got)
	}
}

// TestClosedHostsAreTold by what they have too little of.
func TestClosedHostsAreTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := w.Poll(t.Context(), w.host.ID, nimbus.Capacity{Load: nimbus.Load{Memory: 40, Closed: nimbus.PressureMemory, Why: "everything waits"}}, 0)
	w.must(err)
	if all, memory := w.sample("nimbus_hosts_closed"), w.sample("nimbus_hosts_closed", "memory"); all != 1 || memory != 1 {
		t.Errorf("%v hosts are closed, %v for memory", all, memory)
	}
}

// TestTwoServersHaveTwoRegistries: nothing of it is global.
func TestTwoServersHaveTwoRegistries(t *testing.T) {
	t.Parallel()
	a, b := newWorld(t), newWorld(t)
	a.end(func() nimbus.Lease { a.submit(1); return a.take() }())
	if got := fmt.Sprint(a.sample("nimbus_jobs_finished_total"), b.sample("nimbus_jobs_finished_total")); got != "1 0" {
		t.Errorf("finished: %s", got)
	}
}
