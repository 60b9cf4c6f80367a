package scheduler_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// tick is the grain of simulated time: what happens within one is at once.
const tick = 500 * time.Millisecond

// A simulation plays hosts and submitters of a real scheduler on real books,
// by a clock that jumps from one tick to the next.
type simulation struct {
	*world
	begin  time.Time // of the simulated time, by the database's clock
	at     time.Duration
	hosts  []string
	free   map[string]int // CPUs, by host
	lasts  map[string]func() time.Duration
	since  map[string]time.Duration // when a waiting job came, by id
	orgOf  map[string]string
	open   []running
	grants []grant
}

type running struct {
	host  string
	lease nimbus.Lease
	until time.Duration
}

// grant is a job that a host was given.
type grant struct {
	org              string
	came, from, till time.Duration
}

func simulate(w *world, hosts, cpus int) *simulation {
	w.t.Helper()
	now, err := w.store.Now(w.t.Context())
	w.must(err)
	s := &simulation{world: w, begin: now, free: map[string]int{}, lasts: map[string]func() time.Duration{},
		since: map[string]time.Duration{}, orgOf: map[string]string{}}
	for range hosts {
		id := w.host(nimbus.ExecutorMicroVM)
		s.hosts = append(s.hosts, id)
		s.free[id] = cpus
	}
	return s
}

// lengths has jobs of an org last some time around a mean, the same each run.
func (s *simulation) lengths(org string, mean time.Duration, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	s.lasts[org] = func() time.Duration { return mean - mean/4 + time.Duration(r.Int64N(int64(mean/2))) }
}

// submit hands in n jobs of an org at once.
func (s *simulation) submitAs(org string, n int) {
	s.t.Helper()
	var mu sync.Mutex
	s.together(n, func(int) error {
		j, err := s.Submit(s.t.Context(), nimbus.Principal{Kind: nimbus.PrincipalAdmin, OrgID: org}, scheduler.Submission{
			Class: nimbus.Class{Executor: nimbus.ExecutorMicroVM}, Spec: nimbus.Spec{Command: []string{"true"}}})
		mu.Lock()
		defer mu.Unlock()
		s.since[j.ID], s.orgOf[j.ID] = s.at, org
		return err
	})
}

// together does n things at once, so that they share transactions.
func (s *simulation) together(n int, do func(int) error) {
	s.t.Helper()
	errs := make(chan error, n)
	room := make(chan struct{}, 128)
	for i := range n {
		room <- struct{}{}
		go func() {
			errs <- do(i)
			<-room
		}()
	}
	for range n {
		s.must(<-errs)
	}
}

// step goes on by one tick: jobs end, and hosts take others in their place.
func (s *simulation) step() {
	s.t.Helper()
	s.at += tick
	now, err := s.store.Now(s.t.Context())
	s.must(err)
	s.skip(s.begin.Add(s.at).Sub(now))
	over := slices.DeleteFunc(slices.Clone(s.open), func(r running) bool { return r.until > s.at })
	s.open = slices.DeleteFunc(s.open, func(r running) bool { return r.until <= s.at })
	s.together(len(over), func(i int) error {
		return s.Finish(s.t.Context(), over[i].host, over[i].lease, exited(0))
	})
	for _, r := range over {
		s.free[r.host]++
	}
	for s.take() {
	}
}

// take has each host that has room ask once, and tells whether one got a job.
func (s *simulation) take() bool {
	s.t.Helper()
	var asking []string
	for _, h := range s.hosts {
		if s.free[h] > 0 {
			asking = append(asking, h)
		}
	}
	got := make([]scheduler.PollResult, len(asking))
	s.together(len(asking), func(i int) (err error) {
		n := s.free[asking[i]]
		got[i], err = s.Poll(s.t.Context(), asking[i], nimbus.Capacity{CPUs: n, MemoryMiB: n << 10, Sandboxes: n}, 0)
		return err
	})
	first := len(s.open)
	for i, r := range got {
		for _, o := range r.Offers {
			org := s.orgOf[o.JobID]
			until := s.at + s.lasts[org]()
			s.open = append(s.open, running{asking[i], o.Lease, until})
			s.grants = append(s.grants, grant{org, s.since[o.JobID], s.at, until})
			s.free[asking[i]]--
		}
	}
	taken := s.open[first:]
	s.together(len(taken), func(i int) error {
		_, err := s.Accept(s.t.Context(), taken[i].host, taken[i].lease)
		return err
	})
	return len(taken) > 0
}

// figure prints what was measured as one line of JSON.
func figure(t *testing.T, name string, fields map[string]any) {
	t.Helper()
	fields["figure"] = name
	line, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(string(line))
}

// TestFloodKeepsNobodyWaiting: an org hands in ten thousand jobs at once,
// another one each second. The second waits as if the first were not there.
func TestFloodKeepsNobodyWaiting(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		const length, enough = 10 * time.Second, 2000
		s := simulate(w, 4, 8)
		flood, quiet := s.org("flood"), s.org("quiet")
		s.lengths(flood, length, 1)
		s.lengths(quiet, length, 2)
		s.submitAs(flood, 10_000)
		for len(s.grants) < enough {
			if s.at%time.Second == 0 {
				s.submitAs(quiet, 1)
			}
			s.step()
		}
		var waits []time.Duration
		for _, g := range s.grants {
			if g.org == quiet {
				waits = append(waits, g.from-g.came)
			}
		}
		slices.Sort(waits)
		p95 := waits[len(waits)*95/100]
		figure(t, "fair-share-flood", map[string]any{"engine": engineOf(w), "grants": len(s.grants), "flood_jobs": 10_000, "quiet_grants": len(waits),
			"quiet_submitted_per_s": 1, "job_s": length.Seconds(), "slots": 32, "quiet_wait_p50_s": waits[len(waits)/2].Seconds(),
			"quiet_wait_p95_s": p95.Seconds(), "quiet_wait_max_s": waits[len(waits)-1].Seconds()})
		if p95 > length {
			t.Errorf("the 95th percentile of the quiet org's waits is %v, more than a job's length", p95)
		}
		if still := int(s.at/time.Second) - len(waits); still > 16 {
			t.Errorf("%d jobs of the quiet org wait at the end", still)
		}
	})
}

// TestSharesFollowWeights: orgs that always have more to do get of the slots
// what their weights say, however long their jobs are.
func TestSharesFollowWeights(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		const enough = 2400
		s := simulate(w, 4, 8)
		weights := map[string]int{}
		total := 0
		for i, mean := range []time.Duration{4 * time.Second, 8 * time.Second, 6 * time.Second} {
			org := s.org(fmt.Sprint("org", i))
			weights[org] = 100 * (i + 1)
			total += weights[org]
			s.must(s.SetWeight(t.Context(), admin, org, scheduler.Weight{Percent: weights[org]}))
			s.lengths(org, mean, uint64(i+1))
			s.submitAs(org, 1500)
		}
		// What a job of each org costs is learnt from the first.
		for len(s.grants) < 200 {
			s.step()
		}
		from := s.at
		for len(s.grants) < 200+enough {
			s.step()
		}
		used, all := map[string]time.Duration{}, time.Duration(0)
		for _, g := range s.grants {
			d := max(0, min(g.till, s.at)-max(g.from, from))
			used[g.org] += d
			all += d
		}
		shares, worst := []map[string]any{}, 0.0
		for _, org := range slices.Sorted(maps.Keys(weights)) {
			weight := weights[org]
			want, got := float64(weight)/float64(total), used[org].Seconds()/all.Seconds()
			off := math.Abs(got-want) / want
			worst = max(worst, off)
			shares = append(shares, map[string]any{"weight": weight, "share": got, "off": off})
			if off > 0.05 {
				t.Errorf("an org of weight %d got %.1f %% of the slots, its share is %.1f %%", weight, 100*got, 100*want)
			}
		}
		figure(t, "fair-share-weights", map[string]any{"engine": engineOf(w), "grants": enough, "slot_s": all.Seconds(), "shares": shares, "worst_off": worst})
	})
}
