package githubtest_test

import (
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	nimbus "github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/forge"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest"
)

// TestBudget: whatever is called, however often and by how many at once, GitHub
// never has to refuse a call for a limit, and what it allows is used.
func TestBudget(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 1))
			limits := githubtest.GitHubLimits()
			step := 20 * time.Millisecond // which is about what a minute allows
			if seed%2 == 0 {              // and this about what an hour does
				limits.Core, limits.Runners, step = 30+random.IntN(300), 30+random.IntN(300), time.Second
			}
			w := newWorld(t, func(c *githubtest.Config) { c.Limits = limits })
			ev := w.event(w.push(project(oneJob)).Jobs[0].ID)
			var short atomic.Int64
			var workers sync.WaitGroup
			var calling sync.RWMutex // no long time passes during a call: what it is signed with would end
			for worker := range uint64(4) {
				workers.Go(func() {
					random := rand.New(rand.NewPCG(seed, 2+worker))
					for range 300 {
						calling.RLock()
						err := w.someCall(ev, random.IntN(10))
						calling.RUnlock()
						if wait := nimbus.ErrorRetryAfter(err); wait > 0 {
							short.Add(1)
							calling.Lock()
							w.clock.move(time.Duration(random.Int64N(int64(wait)/4 + 1)))
							calling.Unlock()
						} else if err != nil {
							t.Error(err)
						}
						w.clock.move(time.Duration(random.Int64N(int64(step))))
					}
				})
			}
			workers.Wait()
			used := w.Usage()
			if len(used.Over) > 0 {
				t.Errorf("seed %d: GitHub had to refuse: %v", seed, used.Over)
			}
			if short.Load() == 0 || used.MostInHour < limits.Core*8/10 && used.MostPoints < 800 && used.Registrations < limits.Runners*8/10 {
				t.Errorf("seed %d: %d calls were held back although %+v of %+v was used", seed, short.Load(), used, limits)
			}
		})
	}
}

// someCall makes one of the calls that Nimbus makes.
func (w *world) someCall(ev nimbus.ForgeEvent, which int) error {
	switch {
	case which < 4:
		_, err := w.app.JobStatus(w.ctx, ev.Job)
		return err
	case which < 7:
		_, _, err := w.app.CreateRunner(w.ctx, ev.Job, nimbus.RunnerName(nimbus.NewID(nimbus.PrefixAttempt, w.clock.Now())), ev.Labels)
		return err
	}
	return w.app.RemoveRunner(w.ctx, ev.Job, nimbus.Runner{Name: "nimbus-nobody"})
}

// TestReplicasShareTheBudget: several limiters that know of each other's number
// alone never have GitHub refuse a call for a limit together, also when one is
// added within the hour.
func TestReplicasShareTheBudget(t *testing.T) {
	t.Parallel()
	for _, started := range []int64{1, 2, 3} { // of three
		t.Run("", func(t *testing.T) {
			t.Parallel()
			limits := githubtest.GitHubLimits()
			limits.Core, limits.Runners = 240, 200
			w := newWorld(t, func(c *githubtest.Config) { c.Limits = limits })
			ev := w.event(w.push(project(oneJob)).Jobs[0].ID)
			var replicas atomic.Int64
			replicas.Store(started)
			var each []*world
			for range 3 {
				other := &world{Server: w.Server, t: t, ctx: w.ctx, clock: w.clock}
				transport := &http.Transport{}
				t.Cleanup(transport.CloseIdleConnections)
				var err error
				other.app, err = forge.NewApp(forge.AppConfig{AppID: w.AppID(), PrivateKey: w.PrivateKey(), BaseURL: w.URL(), Clock: w.clock, Transport: transport,
					Replicas: func(time.Duration) int { return int(replicas.Load()) }})
				if err != nil {
					t.Fatal(err)
				}
				each = append(each, other)
			}
			call := func(calls int, of []*world) {
				var all sync.WaitGroup
				for i, r := range of {
					all.Go(func() {
						random := rand.New(rand.NewPCG(uint64(i), 3))
						for range calls {
							if err := r.someCall(ev, random.IntN(10)); err != nil && nimbus.ErrorRetryAfter(err) == 0 {
								t.Error(err)
							}
							w.clock.move(100 * time.Millisecond)
						}
					})
				}
				all.Wait()
			}
			call(40, each[:started])
			replicas.Store(3)
			call(200, each)
			used := w.Usage()
			if len(used.Over) > 0 {
				t.Errorf("GitHub had to refuse: %v", used.Over)
			}
			if used.MostInHour < limits.Core/3 || used.MostInHour > limits.Core {
				t.Errorf("%+v", used)
			}
		})
	}
}

// TestBudgetIsLearnt: a caller that is new to an installation whose budget is
// nearly used up, by somebody else, does not overdraw it.
func TestBudgetIsLearnt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *githubtest.Config) { c.Limits = githubtest.Limits{Core: 3} })
	ev := w.event(w.push(project(oneJob)).Jobs[0].ID)
	var calls sync.WaitGroup
	for range 20 {
		calls.Go(func() { _, _ = w.app.JobStatus(w.ctx, ev.Job) })
	}
	calls.Wait()
	if used := w.Usage(); len(used.Over) > 0 || used.MostInHour == 0 {
		t.Errorf("%+v", used)
	}
}

// TestLostAnswer: a runner whose registration was done and not answered is
// found by its name.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ev := w.event(w.push(project(oneJob)).Jobs[0].ID)
	w.Refuse(githubtest.Refusal{Operation: opJIT, Status: 502, Done: true})
	_, _, err := w.app.CreateRunner(w.ctx, ev.Job, "nimbus-att-1", ev.Labels)
	code(t, err, nimbus.CodeUnavailable, "502")
	if n := len(w.Runners()); n != 1 {
		t.Fatalf("%d runners", n)
	}
	if err := w.app.RemoveRunner(w.ctx, ev.Job, nimbus.Runner{Name: "nimbus-att-1"}); err != nil || len(w.Runners()) != 0 {
		t.Errorf("%v, %v", err, w.Runners())
	}
}
