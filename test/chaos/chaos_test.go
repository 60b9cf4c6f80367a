package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/test/simhost"
)

const (
	// rageFor is how long things break: the least, and for each job.
	rageFor    = 40 * time.Second
	rageForJob = 130 * time.Millisecond
	// submitters is how many ask at once.
	submitters = 8
)

// submitted is a job that was accepted.
type submitted struct {
	id                    string // of a native job
	github                int64  // of a job of GitHub's
	repeatable, cancelled bool
}

func TestChaos(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d: go test ./test/chaos -chaos.jobs %d -chaos.seed %d", seed, *jobCount, seed)
	w := newWorld(t)
	limit := fmt.Sprintf("INSERT INTO limits (id, org_id, kind, name, most) VALUES ('%[1]s/org/', '%[1]s', 'org', '', %[2]d) RETURNING most",
		nimbus.DefaultOrgID, machines*slots-5)
	if err := w.db.query(limit, new(int)); err != nil {
		t.Fatal(err)
	}
	w.github.disorder(seed)
	began := time.Now()
	span := max(rageFor, time.Duration(*jobCount)*rageForJob)
	raging, calm := context.WithTimeout(t.Context(), span)
	defer calm()
	var work sync.WaitGroup
	var jobs []*submitted
	work.Go(func() { jobs = w.submitAll(span, seed) })
	faults := w.rage(raging, span, seed)
	work.Wait()
	settled, err := w.settle(jobs)
	if err != nil {
		t.Error(err)
	}
	v, err := w.check(jobs)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range v.problems {
		t.Error(p)
	}
	for _, r := range w.replicas {
		if t.Failed() {
			t.Logf("the end of a replica's log:\n%s", r.tail())
		}
	}
	report(t, map[string]any{
		"suite": "chaos", "seed": seed, "jobs": len(jobs), "faults": faults, "lost": v.Lost, "two_live_executions": v.Twice,
		"illegal_transitions": v.Illegal, "leaked": v.Leaked, "late_ends": w.strays.Late, "foreign_leases": w.strays.Sent,
		"foreign_leases_believed": v.Believed, "from_github": v.FromGitHub, "unheard_since_cancelled": v.Unheard, "runners": v.Runners,
		"webhooks_failed": v.Undelivered, "webhooks_redelivered": v.Redelivered, "executions": len(w.records.Executions()), "requeued": v.Requeued,
		"results": v.Results, "settled_s": settled.Seconds(), "seconds": time.Since(began).Seconds(),
	})
}

func report(t *testing.T, figures map[string]any) {
	t.Helper()
	line, err := json.Marshal(figures)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(string(line)) // a line of its own, for whoever collects them
}

// gitHubPace is how much time there is for each job of GitHub's in a long run:
// GitHub lets one App make 80 runners a minute, and 5,000 calls an hour.
const gitHubPace = 2 * time.Second

// submitAll hands in jobs over most of the time in which things break, each
// until it is accepted. GitHub's come in the first half: a webhook that is lost
// is asked for no sooner than after a minute.
func (w *world) submitAll(span time.Duration, seed uint64) []*submitted {
	r := rand.New(rand.NewPCG(seed, 2))
	pause := span * 9 / 10 / time.Duration(*jobCount)
	all := make([]*submitted, *jobCount)
	fromGitHub, mostFromGitHub := 0, max(100, int(span/gitHubPace))
	next := make(chan func())
	var submitting sync.WaitGroup
	for range submitters {
		submitting.Go(func() {
			for do := range next {
				do()
			}
		})
	}
	for i := range all {
		s := &submitted{repeatable: r.IntN(2) == 0, cancelled: r.IntN(16) == 0}
		all[i] = s
		work := between(r, 50*time.Millisecond, 3*time.Second)
		if r.IntN(3) == 0 { // so that hosts that are paused hold something
			work = between(r, 6*time.Second, 20*time.Second)
		}
		wait := between(r, 0, 2*time.Second)
		key := fmt.Sprintf("chaos-%d-%d", seed, i)
		if i < len(all)/2 && i%3 != 0 && fromGitHub*len(all)/2 <= i*mostFromGitHub { // a third of all at most
			fromGitHub++
			next <- func() { w.github.push(w.t.Context(), s, i, work, wait) }
		} else {
			next <- func() { w.submit(s, key, work, wait) }
		}
		rest(w.t.Context(), pause)
	}
	close(next)
	submitting.Wait()
	return all
}

// submit is patient, as a script in a loop is: the same key gives the same job.
func (w *world) submit(s *submitted, key string, work, wait time.Duration) {
	w.insist("submit a job", func(ctx context.Context) error {
		j, err := w.client.Submit(ctx, client.Submission{Name: key, IdempotencyKey: key,
			Spec: nimbus.Spec{Command: simhost.Work(work), Repeatable: s.repeatable}})
		s.id = j.ID
		return err
	})
	if s.cancelled && s.id != "" {
		rest(w.t.Context(), wait)
		w.insist("cancel a job", func(ctx context.Context) error {
			_, err := w.client.Cancel(ctx, s.id)
			return err
		})
	}
}

// insist does something until it succeeds. Only what may pass is tried again.
func (w *world) insist(what string, do func(context.Context) error) {
	deadline := time.Now().Add(settleTimeout)
	for {
		ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
		err := do(ctx)
		cancel()
		if err == nil {
			return
		}
		switch nimbus.ErrorCode(err) {
		case nimbus.CodeUnavailable, nimbus.CodeCancelled, nimbus.CodeRateLimited:
		default:
			w.t.Errorf("%s: %v (%s)", what, err, nimbus.ErrorCode(err))
			return
		}
		if time.Now().After(deadline) {
			w.t.Errorf("%s: not within %v: %v", what, settleTimeout, err)
			return
		}
		rest(w.t.Context(), 300*time.Millisecond)
	}
}
