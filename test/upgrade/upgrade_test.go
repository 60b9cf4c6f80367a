package upgrade

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/testenv"
	"github.com/nimbus-ci/nimbus/test/faultproxy"
)

const (
	slots = 4  // of a host
	batch = 12 // jobs of a phase
)

// upgrade is the installation that is upgraded, and what it was given to do.
type upgrade struct {
	t       *testing.T
	jobs    []string
	retries int
}

// TestUpgrade goes through an upgrade as an operator does: a new replica beside
// the old, then a new host beside the old, then the old replica is stopped and
// the old host's agent replaced while its jobs run.
func TestUpgrade(t *testing.T) {
	testenv.Require(t, "root", "postgres", "git", "make")
	began := time.Now()
	commit := baseline(t)
	oldBin, newBin := build(t, unpack(t, commit)), build(t, "../..")
	built := time.Since(began)

	database, shared := testenv.Postgres(t), t.TempDir()
	oldAddr, newAddr := testenv.FreeAddress(t), testenv.FreeAddress(t)
	front, err := faultproxy.Listen(faultproxy.Backend{Network: "tcp", Address: oldAddr}, faultproxy.Backend{Network: "tcp", Address: newAddr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(front.Close)
	u := &upgrade{t: t}

	older := serve(t, "the old replica", oldBin, database, shared, oldAddr)
	token := adminToken(t, older.data)
	behind, toOld, toNew := connect(t, front.Addr(), token), connect(t, oldAddr, token), connect(t, newAddr, token)
	data := t.TempDir()
	oldHost, newHost := filepath.Join(data, "old"), filepath.Join(data, "new")
	oldAgent := host(t, "the old agent", oldBin, behind.Server(), oldHost, join(t, behind))
	u.submit(behind, batch)

	newer := serve(t, "the new replica", newBin, database, shared, newAddr) // which migrates
	front.Cut()                                                             // agents come back by way of either
	for range batch {
		u.submit(toOld, 1)
		u.submit(toNew, 1)
	}
	host(t, "the new agent", newBin, behind.Server(), newHost, join(t, behind))
	await(t, "the new host serves", func() bool { return len(hosts(t, behind)) == 2 })
	for range batch {
		u.submit(toOld, 1)
		u.submit(toNew, 1)
	}

	u.halfway(toOld) // so that both have worked at it for a while

	drained := make(chan struct{})
	go func() { defer close(drained); older.stop() }()
	u.submit(behind, batch)
	<-drained
	oldAgent.stop()
	host(t, "the old host's new agent", newBin, behind.Server(), oldHost, "")
	u.submit(behind, batch)

	// And back: a release that can't be left again is no upgrade.
	back := serve(t, "the old replica again", oldBin, database, shared, oldAddr)
	for range batch {
		u.submit(toOld, 1)
		u.submit(toNew, 1)
	}
	newer.stop()
	u.submit(behind, batch)

	results, by := u.ended(toOld)
	for _, name := range []string{"old", "new"} {
		if by[name] == 0 {
			t.Errorf("the %s host ran nothing: %v", name, by)
		}
	}
	select {
	case <-back.ended:
		t.Errorf("the old replica ended: %v", back.err)
	default:
	}
	line, err := json.Marshal(map[string]any{
		"suite": "upgrade", "baseline": commit, "jobs": len(u.jobs), "results": results, "failed": len(u.jobs) - results[nimbus.ResultSuccess],
		"by_host": by, "submit_retries": u.retries, "build_s": built.Seconds(), "seconds": time.Since(began).Seconds(),
	})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(string(line)) // a line of its own, for whoever collects them
}

func adminToken(t *testing.T, data string) string {
	t.Helper()
	var token []byte
	await(t, "the administrator's token is there", func() (ok bool) {
		var err error
		token, err = os.ReadFile(filepath.Join(data, "admin.token"))
		return err == nil && len(token) > 0
	})
	return strings.TrimSpace(string(token))
}

func join(t *testing.T, c *client.Client) string {
	t.Helper()
	token, _, err := c.CreateJoinToken(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func hosts(t *testing.T, c *client.Client) map[string]string {
	t.Helper()
	all, err := c.Hosts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	for _, h := range all {
		names[h.ID] = h.Name
	}
	return names
}

// submit hands in jobs, each until it is accepted: a connection may end with
// the replica that it led to. One in six lasts over what follows.
func (u *upgrade) submit(c *client.Client, n int) {
	u.t.Helper()
	for range n {
		work := "sleep 0.5"
		if len(u.jobs)%6 == 0 {
			work = "sleep 12"
		}
		key := fmt.Sprint("upgrade-", len(u.jobs))
		await(u.t, "job "+key+" is accepted", func() bool {
			ctx, cancel := context.WithTimeout(u.t.Context(), 20*time.Second)
			defer cancel()
			j, err := c.Submit(ctx, client.Submission{Name: key, IdempotencyKey: key,
				Class: nimbus.Class{Executor: nimbus.ExecutorLocal, CPUs: 1, MemoryMiB: 256},
				Spec:  nimbus.Spec{Command: []string{"sh", "-c", work + "; echo " + key}}})
			switch {
			case err == nil:
				u.jobs = append(u.jobs, j.ID)
				return true
			case nimbus.ErrorCode(err) != nimbus.CodeUnavailable:
				u.t.Fatalf("submit %s: %v", key, err)
			}
			u.retries++
			return false
		})
	}
}

// halfway waits until about half of the jobs so far have ended.
func (u *upgrade) halfway(c *client.Client) {
	u.t.Helper()
	id := u.jobs[len(u.jobs)/2|1]
	await(u.t, "half of the jobs have ended", func() bool {
		j, err := c.Job(u.t.Context(), id)
		if err != nil {
			u.t.Fatal(err)
		}
		return j.State == nimbus.StateFinished
	})
}

// ended waits for all jobs, and counts their results and where they ran.
func (u *upgrade) ended(c *client.Client) (results map[nimbus.Result]int, by map[string]int) {
	u.t.Helper()
	results, by = map[nimbus.Result]int{}, map[string]int{}
	names := hosts(u.t, c)
	for i, id := range u.jobs {
		var j nimbus.Job
		await(u.t, "job "+id+" ends", func() bool {
			var err error
			if j, err = c.Job(u.t.Context(), id); err != nil {
				u.t.Fatal(err)
			}
			return j.State == nimbus.StateFinished
		})
		results[j.Result]++
		by[names[j.HostID]]++
		if j.Result != nimbus.ResultSuccess {
			u.t.Errorf("job %d, %s, on %s: %s %+v", i, id, names[j.HostID], j.Result, j.Reason)
		}
		var log []string
		for line, err := range c.Log(u.t.Context(), id, 1) {
			if err != nil {
				u.t.Errorf("the log of job %s: %v", id, err)
				break
			}
			log = append(log, line.Text)
		}
		if want := fmt.Sprint("upgrade-", i); len(log) != 1 || log[0] != want {
			u.t.Errorf("the log of job %s is %q, not %q", id, log, want)
		}
	}
	return results, by
}
