package server

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache/actions"
)

// cacheWorld answers what the tokens of GitHub's jobs are made of.
type cacheWorld struct {
	job    nimbus.Job
	unsure error // of the binding
	from   nimbus.RunOrigin
	away   error // of GitHub
	off    bool
	hold   chan struct{}
	missed func() // called when what is asked for is not kept

	asked atomic.Int64
	mu    sync.Mutex
	kept  map[string]nimbus.RunOrigin
}

func (w *cacheWorld) BoundJob(context.Context, string, nimbus.Lease) (nimbus.Job, error) {
	return w.job, w.unsure
}

type cacheForge struct{ *cacheWorld }

func (w cacheForge) RunOrigin(context.Context, nimbus.GitHubJob) (nimbus.RunOrigin, error) {
	w.asked.Add(1)
	if w.hold != nil {
		<-w.hold
	}
	return w.from, w.away
}

func (w *cacheWorld) RunOrigin(_ context.Context, orgID, repo string, _ int64) (nimbus.RunOrigin, error) {
	w.mu.Lock()
	o, ok := w.kept[orgID+repo]
	w.mu.Unlock()
	if !ok {
		if w.missed != nil {
			w.missed()
		}
		return o, nimbus.Errorf(nimbus.CodeNotFound, "not asked yet")
	}
	return o, nil
}

func (w *cacheWorld) SaveRunOrigin(_ context.Context, orgID, repo string, _ int64, o nimbus.RunOrigin) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kept[orgID+repo] = o
	return nil
}

func (w *cacheWorld) GitHubJobsCached(context.Context, string) (bool, error) { return !w.off, nil }

func newCacheWorld(t *testing.T) (*cacheWorld, *jobCache) {
	t.Helper()
	keys, err := actions.NewKeys([]byte("a secret of the test's, thirty-two bytes"))
	if err != nil {
		t.Fatal(err)
	}
	w := &cacheWorld{
		job:  nimbus.Job{ID: "job_1", OrgID: "org_1", Repo: "Acme/Web", Source: nimbus.SourceGitHub, GitHub: nimbus.GitHubJob{RunID: 7, HeadBranch: "main"}},
		from: nimbus.RunOrigin{Event: "push", HeadBranch: "main", HeadRepo: "acme/web", DefaultBranch: "main", OnBranch: true},
		kept: map[string]nimbus.RunOrigin{},
	}
	return w, &jobCache{keys: keys, bound: w, runs: &runs{forge: cacheForge{w}, books: w}, books: w, log: slog.New(slog.DiscardHandler)}
}

// TestTokensOfGitHubsJobs: they are the bound job's, say what its run may, and GitHub
// is asked once for each run.
func TestTokensOfGitHubsJobs(t *testing.T) {
	t.Parallel()
	w, c := newCacheWorld(t)
	w.hold = make(chan struct{})
	var all sync.WaitGroup
	for range 8 { // a matrix
		all.Go(func() {
			token, reason, err := c.GitHubToken(t.Context(), "host_1", nimbus.Lease{})
			if err != nil || reason != "" {
				t.Errorf("%q, %v", reason, err)
				return
			}
			g, err := c.keys.Verify(token, time.Now())
			if err != nil || g.Caller.OrgID != "org_1" || g.Caller.Repo != "acme/web" || g.Caller.JobID != "job_1" ||
				g.Caller.Write != "refs/heads/main" || !cmp.Equal(g.Caller.Read, []string{"refs/heads/main"}) {
				t.Errorf("%+v, %v", g.Caller, err)
			}
		})
	}
	for w.asked.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	close(w.hold)
	all.Wait()
	if _, _, err := c.GitHubToken(t.Context(), "host_1", nimbus.Lease{}); err != nil || w.asked.Load() != 1 {
		t.Errorf("GitHub was asked %d times, %v", w.asked.Load(), err)
	}
	// The job's own event says main, too: what GitHub says of the run counts.
	w.job.GitHub.RunID, w.job.OrgID = 8, "org_2"
	w.from = nimbus.RunOrigin{Event: "pull_request", HeadBranch: "main", HeadRepo: "mallory/web", DefaultBranch: "main"}
	token, _, err := c.GitHubToken(t.Context(), "host_1", nimbus.Lease{})
	if err != nil {
		t.Fatal(err)
	}
	if g, err := c.keys.Verify(token, time.Now()); err != nil || g.Caller.Write == "refs/heads/main" || g.Caller.OrgID != "org_2" {
		t.Errorf("a fork's main: %+v, %v", g.Caller, err)
	}
}

// TestARunIsAskedForOnce: also where one job finds nothing kept, and gets round to
// asking when another's answer is there.
func TestARunIsAskedForOnce(t *testing.T) {
	t.Parallel()
	w, c := newCacheWorld(t)
	token := func() {
		t.Helper()
		if token, _, err := c.GitHubToken(t.Context(), "host_1", nimbus.Lease{}); err != nil || token == "" {
			t.Errorf("%q, %v", token, err)
		}
	}
	w.missed = func() {
		w.missed = nil
		token()
	}
	token()
	if n := w.asked.Load(); n != 1 {
		t.Errorf("GitHub was asked %d times", n)
	}
}

// TestNoTokenForGitHubsJobs: each time that there is something in the way, and what
// is not known is not kept.
func TestNoTokenForGitHubsJobs(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		harm func(*cacheWorld)
		code nimbus.Code
	}{
		"not proved":      {func(w *cacheWorld) { w.unsure = nimbus.Errorf(nimbus.CodeConflict, "not yet") }, nimbus.CodeConflict},
		"somebody else's": {func(w *cacheWorld) { w.unsure = nimbus.Errorf(nimbus.CodeFenced, "no") }, nimbus.CodeFenced},
		"off":             {func(w *cacheWorld) { w.off = true }, nimbus.CodeForbidden},
		"GitHub is away":  {func(w *cacheWorld) { w.away = nimbus.Errorf(nimbus.CodeUnavailable, "away") }, nimbus.CodeUnavailable},
		"a broken GitHub": {func(w *cacheWorld) { w.away = errors.New("nonsense") }, nimbus.CodeInternal},
		"a native job":    {func(w *cacheWorld) { w.job.Source, w.job.Repo = nimbus.SourceNative, "" }, nimbus.CodeForbidden},
		"nothing known":   {func(w *cacheWorld) { w.from = nimbus.RunOrigin{} }, nimbus.CodeForbidden},
	} {
		w, cache := newCacheWorld(t)
		c.harm(w)
		token, _, err := cache.GitHubToken(t.Context(), "host_1", nimbus.Lease{})
		if nimbus.ErrorCode(err) != c.code || token != "" {
			t.Errorf("%s: %v", name, err)
		}
		if w.away != nil && len(w.kept) > 0 {
			t.Errorf("%s: %v is kept", name, w.kept)
		}
	}
	w, cache := newCacheWorld(t)
	w.from.OnBranch, w.from.Unsure = false, "a tag has the branch's name"
	token, reason, err := cache.GitHubToken(t.Context(), "host_1", nimbus.Lease{})
	if err != nil || !strings.Contains(reason, "tag") {
		t.Errorf("%q, %v", reason, err)
	}
	if g, err := cache.keys.Verify(token, time.Now()); err != nil || g.Caller.Write != "" {
		t.Errorf("maybe a tag: %+v, %v", g.Caller, err)
	}
}
