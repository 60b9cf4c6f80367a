package scheduler_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

func TestCordonedHostGetsNoJobs(t *testing.T) {
	eachEngine(t, scheduler.Config{AffinityWait: -1}, func(t *testing.T, w *world) {
		host, other := w.host(), w.host()
		running := w.submit(nimbus.Spec{})
		lease := w.start(host).Lease
		w.must(w.CordonHost(t.Context(), admin, host, true))
		waiting := w.submit(nimbus.Spec{})
		if r := w.poll(host); len(r.Offers) > 0 {
			t.Fatalf("the cordoned host is offered %v", r.Offers)
		}
		if o := w.offer(other); o.JobID != waiting.ID {
			t.Fatalf("the other host is offered %v", o)
		}
		w.must(w.Finish(t.Context(), host, lease, exited(0))) // what ran goes on
		w.expect(running.ID, nimbus.StateFinished, nimbus.ResultSuccess)

		w.must(w.CordonHost(t.Context(), admin, host, false))
		again := w.submit(nimbus.Spec{})
		if o := w.offer(host); o.JobID != again.ID {
			t.Fatalf("the host is offered %v", o)
		}
		w.want(nimbus.CodeNotFound, w.CordonHost(t.Context(), admin, "host_none", true))
	})
}

func TestRemovedHostIsNobody(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host := w.host()
		j := w.submit(nimbus.Spec{})
		lease := w.start(host).Lease
		w.want(nimbus.CodeConflict, w.RemoveHost(t.Context(), admin, host, false))
		w.must(w.RemoveHost(t.Context(), admin, host, true))

		_, err := w.Poll(t.Context(), host, plenty, 0)
		w.want(nimbus.CodeNotFound, err)
		_, err = w.Heartbeat(t.Context(), host, []nimbus.Lease{lease})
		w.want(nimbus.CodeNotFound, err)
		_, err = w.Hello(t.Context(), host, "v1", inventory(nimbus.ExecutorMicroVM), nil)
		w.want(nimbus.CodeNotFound, err)
		w.want(nimbus.CodeNotFound, w.RemoveHost(t.Context(), admin, host, true))
		hosts, err := w.Hosts(t.Context())
		w.must(err)
		if len(hosts) > 0 {
			t.Errorf("hosts: %v", hosts)
		}
		w.pass(nimbus.LeaseDuration * 2)
		if got := w.job(j.ID); got.State.Live() {
			t.Errorf("the job is %s: nobody renews its lease", got.State)
		}
	})
}

func TestHostsComeInPages(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		for range 5 {
			w.host()
		}
		seen := map[string]bool{}
		for after := ""; ; {
			page, next, err := w.HostPage(t.Context(), 2, after)
			w.must(err)
			if len(page) > 2 {
				t.Fatalf("a page of %d", len(page))
			}
			for _, h := range page {
				seen[h.ID] = true
			}
			if after = next; next == "" {
				break
			}
		}
		all, err := w.Hosts(t.Context())
		w.must(err)
		if len(seen) != 5 || len(all) != 5 || all[0].Name != "host1" {
			t.Errorf("%d in pages, %d at once, first %s", len(seen), len(all), all[0].Name)
		}
	})
}

// TestJobsWaitForHostsThatAreCordonedOrAway: what a host that is known offers
// will be served again, and is no reason to refuse a job or to choose an
// executor that nobody has.
func TestJobsWaitForHostsThatAreCordonedOrAway(t *testing.T) {
	eachEngine(t, scheduler.Config{AffinityWait: -1}, func(t *testing.T, w *world) {
		hosts := []string{w.host(nimbus.ExecutorLocal), w.host(nimbus.ExecutorLocal)}
		for _, h := range hosts {
			w.must(w.CordonHost(t.Context(), admin, h, true))
		}
		cordoned := w.submit(nimbus.Spec{})
		if j := w.job(cordoned.ID); j.State != nimbus.StateQueued || j.Class.Executor != nimbus.ExecutorLocal {
			t.Fatalf("with all hosts cordoned the job is %s of %s: %s", j.State, j.Class, j.Reason.Message)
		}
		w.must(w.CordonHost(t.Context(), admin, hosts[0], false))
		if o := w.offer(hosts[0]); o.JobID != cordoned.ID {
			t.Fatalf("the host is offered %v", o)
		}

		w.skip(time.Hour) // the hosts go, and another one comes that offers something else
		w.host(nimbus.ExecutorDocker)
		away := w.submit(nimbus.Spec{})
		if j := w.job(away.ID); j.State != nimbus.StatePending || j.Class.Executor != nimbus.ExecutorLocal || !strings.Contains(j.Reason.Message, "is away") {
			t.Fatalf("with its hosts away the job is %s of %s: %s", j.State, j.Class, j.Reason.Message)
		}
		for _, h := range hosts {
			w.must(w.RemoveHost(t.Context(), admin, h, true))
		}
		w.sweep()
		w.expect(away.ID, nimbus.StateUnschedulable, nimbus.ReasonNoHost)
	})
}
