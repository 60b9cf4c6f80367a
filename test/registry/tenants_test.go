package registry_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/registry"
)

// TestOrgsAreApart: what one org has another can neither pull nor mount, nor find
// out about, though it has the same content.
func TestOrgsAreApart(t *testing.T) {
	t.Parallel()
	onEngines(t, registry.Limits{}, func(t *testing.T, w *world) {
		acme, umbrella := w.org("acme"), w.org("umbrella")
		ours, theirs := w.client(w.token(acme, nimbus.RoleOperator)), w.client(w.token(umbrella, nimbus.RoleOperator))
		secret := fresh(1000)
		m := ours.image("acme/app", "v1", fresh(10), secret)
		digest := registry.Of(registry.SHA256, secret)
		for _, path := range []string{
			"/v2/acme/app/blobs/" + string(digest), "/v2/acme/app/manifests/v1", "/v2/acme/app/tags/list", "/v2/acme/none/manifests/v1", "/v2/nobody/app/manifests/v1",
			"/v2/acme/app/referrers/" + string(digest), "/v2/" + acme.ID + "/app/manifests/v1",
		} {
			theirs.do("GET", path, nil).want(t, 403, "DENIED")
		}
		theirs.do("PUT", "/v2/acme/app/manifests/v2", m, "Content-Type", ociManifest).want(t, 403, "DENIED")
		theirs.do("DELETE", "/v2/acme/app/manifests/v1", nil).want(t, 403, "DENIED")
		theirs.do("HEAD", "/v2/umbrella/app/blobs/"+string(digest), nil).want(t, 404, "")
		for _, from := range []string{"acme/app", "", "umbrella/app", "acme/none"} {
			theirs.do("POST", "/v2/umbrella/app/blobs/uploads/?mount="+string(digest)+"&from="+url.QueryEscape(from), nil).want(t, 202, "")
		}
		theirs.do("PUT", "/v2/umbrella/app/manifests/v1", m, "Content-Type", ociManifest).want(t, 400, "MANIFEST_BLOB_UNKNOWN")
		// An upload of one is none of the other's.
		begun := ours.do("POST", "/v2/acme/app/blobs/uploads/", nil).want(t, 202, "")
		theirs.do("PATCH", strings.Replace(begun.header.Get("Location"), "/acme/", "/umbrella/", 1), secret).want(t, 404, "BLOB_UPLOAD_UNKNOWN")
		// The same content is pushed in whole, and counts for each.
		theirs.push("umbrella/app", secret)
		if got := w.used(umbrella); got != 1000 {
			t.Errorf("the other org has %d bytes", got)
		}
	})
}

// TestWhoMayWhat holds roles, scopes and jobs to what they may do, by the token of
// Nimbus and by one that the registry gives for it.
func TestWhoMayWhat(t *testing.T) {
	t.Parallel()
	w := newWorld(t, engines["sqlite"](t), folder(t, t.TempDir()), registry.Limits{})
	acme := w.org("acme")
	other := w.org("other")
	operator := w.client(w.token(acme, nimbus.RoleOperator))
	operator.image("acme/app", "v1", fresh(10))
	w.jobs["a-job"], w.works["att_1"] = nimbus.Principal{Kind: nimbus.PrincipalJob, OrgID: acme.ID, Subject: "att_1"}, registry.Work{Repo: "Acme/App"}
	w.jobs["own-job"], w.works["att_2"] = nimbus.Principal{Kind: nimbus.PrincipalJob, OrgID: acme.ID, Subject: "att_2"}, registry.Work{}
	w.jobs["fork-job"], w.works["att_3"] = nimbus.Principal{Kind: nimbus.PrincipalJob, OrgID: acme.ID, Subject: "att_3"}, registry.Work{Repo: "acme/app", Stranger: "a fork"}
	w.jobs["their-job"], w.works["att_4"] = nimbus.Principal{Kind: nimbus.PrincipalJob, OrgID: other.ID, Subject: "att_4"}, registry.Work{Repo: "acme/app"}
	w.jobs["a-host"] = nimbus.Principal{Kind: nimbus.PrincipalHost, Subject: "host_1"}
	w.jobs["root"] = nimbus.Principal{Kind: nimbus.PrincipalAdmin, Subject: "admin", Platform: true}
	for name, of := range map[string]struct {
		token              string
		pull, push, remove bool
	}{
		"viewer":                        {w.token(acme, nimbus.RoleViewer), true, false, false},
		"developer":                     {w.token(acme, nimbus.RoleDeveloper), true, true, false},
		"operator":                      {operator.token, true, true, true},
		"admin that only reads images":  {w.token(acme, nimbus.RoleAdmin, nimbus.ScopeRegistryRead), true, false, false},
		"admin that only writes images": {w.token(acme, nimbus.RoleAdmin, nimbus.ScopeRegistryWrite), false, true, true},
		"admin of jobs":                 {w.token(acme, nimbus.RoleAdmin, nimbus.ScopeJobsWrite), false, false, false},
		"a job":                         {"a-job", true, true, false},
		"a job of the org's own":        {"own-job", true, false, false},
		"a job of a fork":               {"fork-job", false, false, false},
		"a job of another org":          {"their-job", false, false, false},
		"a host":                        {"a-host", false, false, false},
		"the platform":                  {"root", true, true, true},
		"another org":                   {w.token(other, nimbus.RoleAdmin), false, false, false},
	} {
		c := w.client(of.token)
		try := func(how string, do func(method, path string, body []byte) answer, no int) {
			t.Helper()
			for what, may := range map[string]bool{"GET /v2/acme/app/manifests/v1": of.pull, "POST /v2/acme/app/blobs/uploads/": of.push,
				"DELETE /v2/acme/app/manifests/none": of.remove} {
				method, path, _ := strings.Cut(what, " ")
				got := do(method, path, nil).status
				if yes := got != no && got != http.StatusForbidden; yes != may {
					t.Errorf("%s, %s: %s is answered by %d", name, how, what, got)
				}
			}
		}
		try("by Basic", func(method, path string, body []byte) answer { return c.do(method, path, body) }, http.StatusForbidden)
		bearer := &pusher{t: t, url: c.url}
		try("by a bare token", func(method, path string, body []byte) answer {
			return bearer.do(method, path, body, "Authorization", "Bearer "+of.token)
		}, http.StatusForbidden)
		given := c.bearer("repository:acme/app:pull,push,delete")
		try("by one of the registry", func(method, path string, body []byte) answer {
			return bearer.do(method, path, body, "Authorization", "Bearer "+given)
		}, http.StatusUnauthorized)
	}
	// One for less can do less, whoever has it.
	narrow := operator.bearer("repository:acme/app:pull")
	c := &pusher{t: t, url: operator.url}
	c.do("GET", "/v2/acme/app/manifests/v1", nil, "Authorization", "Bearer "+narrow).want(t, 200, "")
	refused := c.do("POST", "/v2/acme/app/blobs/uploads/", nil, "Authorization", "Bearer "+narrow).want(t, 401, "DENIED")
	if got := refused.header.Get("WWW-Authenticate"); !strings.Contains(got, `scope="repository:acme/app:pull,push"`) || !strings.Contains(got, `error="insufficient_scope"`) {
		t.Errorf("the challenge is %s", got)
	}
	c.do("GET", "/v2/acme/other/tags/list", nil, "Authorization", "Bearer "+narrow).want(t, 401, "DENIED")
	for _, word := range []string{"Bearer ", "bearer ", "BEARER  "} {
		c.do("GET", "/v2/token?scope=repository:acme/app:push", nil, "Authorization", word+narrow).want(t, 403, "")
	}
	// The word before a token may be written in any case.
	for _, word := range []string{"Bearer ", "bearer ", "BEARER  "} {
		a := c.do("GET", "/v2/token?scope=repository:acme/app:pull", nil, "Authorization", word+operator.token).want(t, 200, "")
		var got struct {
			Token string `json:"token"`
		}
		w.must(json.Unmarshal(a.body, &got))
		c.do("GET", "/v2/acme/app/manifests/v1", nil, "Authorization", word+got.Token).want(t, 200, "")
	}
	for _, token := range []string{"", "wrong", "nimbus-registry.AAAA", narrow[:len(narrow)-2] + "AA"} {
		for _, path := range []string{"/v2/", "/v2/acme/app/manifests/v1", "/v2/token", "/v2/_catalog", "/v2/nowhere"} {
			a := c.do("GET", path, nil, "Authorization", "Bearer "+token).want(t, 401, "UNAUTHORIZED")
			if got := a.header.Get("WWW-Authenticate"); !strings.HasPrefix(got, `Bearer realm="http://127.0.0.1:`) {
				t.Errorf("the challenge is %s", got)
			}
		}
	}
	c.do("GET", "/v2/_catalog", nil, "Authorization", "Bearer "+w.token(acme, nimbus.RoleOperator)).want(t, 403, "DENIED")
	// One for a repository does not list the others.
	admin := w.client(w.token(acme, nimbus.RoleAdmin))
	admin.do("GET", "/v2/_catalog", nil).want(t, 200, "")
	refused = c.do("GET", "/v2/_catalog", nil, "Authorization", "Bearer "+admin.bearer("repository:acme/app:pull")).want(t, 401, "DENIED")
	if got := refused.header.Get("WWW-Authenticate"); !strings.Contains(got, `scope="registry:catalog:*"`) {
		t.Errorf("the challenge is %s", got)
	}
	c.do("GET", "/v2/_catalog", nil, "Authorization", "Bearer "+admin.bearer("registry:catalog:*")).want(t, 200, "")
	c.do("GET", "/v2/acme/app/manifests/v1", nil, "Authorization", "Bearer "+admin.bearer("registry:catalog:*")).want(t, 401, "DENIED")
	c.do("GET", "/v2/_catalog", nil, "Authorization", "Bearer "+operator.bearer("registry:catalog:*")).want(t, 403, "DENIED")
	c.do("DELETE", "/v2/", nil, "Authorization", "Bearer "+operator.token).want(t, 405, "UNSUPPORTED")
	form := url.Values{"grant_type": {"password"}, "username": {"a:b"}, "password": {operator.token}, "scope": {"repository:acme/app:pull"}}
	c.do("POST", "/v2/token", []byte(form.Encode()), "Content-Type", "application/x-www-form-urlencoded").want(t, 200, "")
}

// TestWhereJobsPush: a job pushes to the repository that is called after its own, and
// where rules let it; it pulls all of its org, but for one that runs what others wrote.
func TestWhereJobsPush(t *testing.T) {
	t.Parallel()
	onEngines(t, registry.Limits{}, func(t *testing.T, w *world) {
		acme := w.org("acme")
		admin := nimbus.Principal{Kind: nimbus.PrincipalAdmin, Subject: "admin"}
		for token, work := range map[string]registry.Work{
			"web": {Repo: "Acme/Web"}, "octo": {Repo: "octo/web"}, "shadow": {Repo: "acme/octo"}, "own": {},
			"fork": {Repo: "acme/web", Stranger: "its run came from evil/web"},
		} {
			w.jobs[token], w.works["att_"+token] = nimbus.Principal{Kind: nimbus.PrincipalJob, OrgID: acme.ID, Subject: "att_" + token}, work
		}
		w.jobs["unknown"] = nimbus.Principal{Kind: nimbus.PrincipalJob, OrgID: acme.ID, Subject: "att_unknown"}
		for repo, from := range map[string][]string{"team/app": {"octo/web"}, "team/own": {nimbus.OwnJobs}, "team/all": {nimbus.AllJobs}, "closed": nil} {
			w.must(w.replicas[0].SetImageRules(t.Context(), admin, acme.ID, repo, nimbus.ImageRules{PushFrom: from}))
		}
		may := map[string]string{ // whose jobs
			"acme/web": "web", "acme/web/cache": "web", "acme/website": "", "web": "web", "web/cache": "", "octo/web": "octo", "octo/web/x/y": "octo", "octo/other": "",
			"octo": "shadow", "acme/octo": "shadow", "team/app": "octo", "team/app/below": "", "team/own": "own", "team/all": "web octo shadow own", "closed": "", "none": "",
		}
		for repo, who := range may {
			for token := range w.jobs {
				c := w.client(token)
				direct := c.do("POST", "/v2/acme/"+repo+"/blobs/uploads/", nil)
				if token == "unknown" { // what it works on may be a fork's
					direct.want(t, 503, "")
					c.do("GET", "/v2/acme/"+repo+"/tags/list", nil).want(t, 503, "")
					c.do("GET", "/v2/token?scope=repository:acme/"+repo+":pull", nil).want(t, 503, "")
					continue
				}
				bearer := (&pusher{t: t, url: c.url}).do("GET", "/v2/acme/"+repo+"/tags/list", nil, "Authorization", "Bearer "+c.bearer("repository:acme/"+repo+":pull"))
				want := http.StatusForbidden
				if slices.Contains(strings.Fields(who), token) {
					want = http.StatusAccepted
				}
				if pulls := bearer.status == http.StatusOK || bearer.status == http.StatusNotFound; direct.status != want || pulls == (token == "fork") {
					t.Errorf("the job %s pushes to %s: %d %s, want %d; and pulls: %d", token, repo, direct.status, direct.body, want, bearer.status)
				}
				if token == "fork" && (bearer.status != http.StatusForbidden || !strings.Contains(string(bearer.body), "evil/web")) {
					t.Errorf("the job of a fork pulls, and is told %d %s", bearer.status, bearer.body)
				}
				if want == http.StatusForbidden && (direct.reason() != "DENIED" || token != "fork" && !strings.Contains(string(direct.body), "--push-from")) {
					t.Errorf("the job %s is told %s", token, direct.body)
				}
			}
		}
		// A token of the registry for more gives no more.
		c := w.client("web")
		given := c.bearer("repository:acme/team/app:pull,push repository:acme/acme/web:pull,push")
		with := &pusher{t: t, url: c.url}
		with.do("POST", "/v2/acme/team/app/blobs/uploads/", nil, "Authorization", "Bearer "+given).want(t, 403, "DENIED")
		with.do("POST", "/v2/acme/acme/web/blobs/uploads/", nil, "Authorization", "Bearer "+given).want(t, 202, "")
		with.do("GET", "/v2/acme/team/app/tags/list", nil, "Authorization", "Bearer "+given).want(t, 200, "")
		// A rule that is taken away holds within a second.
		w.client("octo").do("POST", "/v2/acme/team/app/blobs/uploads/", nil).want(t, 202, "")
		w.must(w.replicas[0].SetImageRules(t.Context(), admin, acme.ID, "team/app", nimbus.ImageRules{}))
		w.pass(time.Second)
		w.client("octo").do("POST", "/v2/acme/team/app/blobs/uploads/", nil).want(t, 403, "DENIED")
	})
}

// bearer asks the registry for a token of its own.
func (c *pusher) bearer(scope string) string {
	c.t.Helper()
	a := c.do("GET", "/v2/token?service=nimbus&scope="+url.QueryEscape(scope), nil).want(c.t, 200, "")
	var got struct {
		Token string `json:"token"`
	}
	if err := json.Unmarshal(a.body, &got); err != nil || got.Token == "" {
		c.t.Fatalf("%s: %v", a.body, err)
	}
	return got.Token
}

// TestTokenEndsWithItsOwn: a token of the registry works no longer than the one
// that it was given for, nor than its time.
func TestTokenEndsWithItsOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, engines["sqlite"](t), folder(t, t.TempDir()), registry.Limits{})
	acme := w.org("acme")
	c := w.client(w.token(acme, nimbus.RoleDeveloper))
	c.image("acme/app", "v1", fresh(10))
	get := func(token string) answer {
		return (&pusher{t: t, url: c.url}).do("GET", "/v2/acme/app/manifests/v1", nil, "Authorization", "Bearer "+token)
	}
	w.jobs["a-job"], w.works["att_1"] = nimbus.Principal{Kind: nimbus.PrincipalJob, OrgID: acme.ID, Subject: "att_1"}, registry.Work{}
	job := w.client("a-job").bearer("repository:acme/app:pull")
	get(job).want(t, 200, "")
	w.mu.Lock()
	delete(w.jobs, "a-job") // it has ended
	w.mu.Unlock()
	w.pass(time.Second)
	get(job).want(t, 401, "UNAUTHORIZED")
	short := c.bearer("repository:acme/app:pull")
	get(short).want(t, 200, "")
	w.pass(16 * time.Minute)
	get(short).want(t, 401, "UNAUTHORIZED")
}
