package httpapi_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/httpapi"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// TestTenancyMatrix makes every call of the API as everybody, on things of an
// org of one's own and of another: nobody gets further than the table of
// expectations says, and of the other org nothing is read, listed, followed or
// changed. Its things are answered like those that do not exist.
func TestTenancyMatrix(t *testing.T) {
	t.Parallel()
	for profile, start := range map[string]func(*testing.T) *plane{
		"embedded": func(t *testing.T) *plane { return startPlane(t) },
		"scale":    startReplica,
	} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			testTenancy(t, start(t))
		})
	}
}

func testTenancy(t *testing.T, p *plane) {
	ours, theirs := newTenant(t, p, "acme"), newTenant(t, p, "globex")
	m := &matrix{plane: p, ours: ours, theirs: theirs, nothing: ghost(theirs), served: map[string]bool{}}
	everybody := askers(t, p, ours)
	for _, tn := range []tenant{ours, theirs} { // jobs that wait, once no host asks any more
		tn.things["waiting_job"] = tn.submit(t, p, "waiting job of "+tn.org.Name, "").ID
		tn.things["spare_job"] = tn.submit(t, p, "spare job of "+tn.org.Name, "").ID
	}
	m.nothing.things["waiting_job"] = m.nothing.things["job"]
	m.nothing.things["spare_job"] = m.nothing.things["job"]
	everyCallIsExpected(t)

	before := theirs.state(t, p)
	for _, name := range slices.Sorted(maps.Keys(everybody)) {
		if name != "platform" {
			m.round(t, name, everybody[name])
		}
	}
	if after := theirs.state(t, p); after != before {
		t.Errorf("the other org changed:\n%s\nwas\n%s", after, before)
		m.figures.Leaks++
	}
	m.round(t, "platform", everybody["platform"])
	for call, e := range tenancy {
		if !m.served[call] && !e.refuses {
			t.Errorf("%s: nobody was answered, so that its refusals prove nothing", call)
		}
	}
	m.figures.RPCs, m.figures.Routes, m.figures.Roles = len(httpapi.Procedures()), len(httpapi.Routes()), len(everybody)
	line, err := json.Marshal(m.figures)
	must(t, err)
	t.Logf("%s", line)
}

// TestStreamsTellOfOneOrg: changes of another org's jobs are announced to others.
func TestStreamsTellOfOneOrg(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	ours, theirs := newTenant(t, p, "acme"), newTenant(t, p, "globex")
	viewer := token(t, p, member(t, p, ours, "viewer@members.example", nimbus.RoleViewer), nimbus.NewToken{Name: "own"})
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url+"/api/v1/jobs/stream", nil)
	must(t, err)
	r.Header.Set("Authorization", "Bearer "+viewer)
	got, err := http.DefaultClient.Do(r)
	must(t, err)
	defer got.Body.Close()
	next := ours.things["attempt"]
	for lines := bufio.NewScanner(got.Body); lines.Scan(); {
		if strings.Contains(lines.Text(), theirs.org.Name) || strings.Contains(lines.Text(), theirs.org.ID) {
			t.Fatalf("the other org's job is announced: %s", lines.Text())
		}
		if !strings.Contains(lines.Text(), next) {
			continue
		}
		if next != ours.things["attempt"] {
			return
		}
		theirs.submit(t, p, "next job of globex", "")
		next = ours.submit(t, p, "next job of acme", "").ID
	}
	t.Fatal("the stream ended before our next job")
}

// everyCallIsExpected holds the expectations against the API description: each
// call has one, and each id that a request can have is tried.
func everyCallIsExpected(t *testing.T) {
	t.Helper()
	methods, requests, known := httpapi.Methods(), map[string]string{}, map[string]bool{}
	for call, e := range tenancy {
		call, _, _ = strings.Cut(call, "#")
		requests[call] += e.body
		known[call] = true
	}
	for procedure, method := range methods {
		if !known[procedure] {
			t.Errorf("nobody said who may call %s: add it to the table of expectations", procedure)
		}
		fields := method.Input().Fields()
		for i := range fields.Len() {
			if f := fields.Get(i); isReference(f) && known[procedure] && !strings.Contains(requests[procedure], `"`+f.JSONName()+`"`) {
				t.Errorf("%s is not tried with another org's %s", procedure, f.Name())
			}
		}
	}
	for _, pattern := range httpapi.Routes() {
		if !known[pattern] {
			t.Errorf("nobody said who may ask for %s: add it to the table of expectations", pattern)
		}
	}
	for call := range known {
		if methods[call] == nil && !slices.Contains(httpapi.Routes(), call) {
			t.Errorf("%s is expected but not in the API", call)
		}
	}
}

// isReference tells whether a field names a thing of an org.
func isReference(f protoreflect.FieldDescriptor) bool {
	name := string(f.Name())
	return strings.HasSuffix(name, "_id") || strings.HasSuffix(name, "_ids") && name != "warm_class_ids" || f.Message() != nil && f.Message().Name() == "Lease"
}

// matrix is the state of the test.
type matrix struct {
	plane                 *plane
	ours, theirs, nothing tenant
	served                map[string]bool // calls that somebody got a 2xx for
	renewed               time.Time       // when the leases of both jobs were
	figures               struct {
		RPCs   int `json:"rpcs"`
		Routes int `json:"routes"`
		Roles  int `json:"roles"`
		Calls  int `json:"calls"`
		Leaks  int `json:"leaks"`
	}
}

// last are the calls after which a caller, or its job, is gone.
var last = []string{"/nimbus.v1.AgentService/FinishAttempt", "/nimbus.v1.UserService/RemoveUser", "POST /api/v1/logout"}

// round makes every call as one caller.
func (m *matrix) round(t *testing.T, name string, who asker) {
	t.Helper()
	calls := slices.DeleteFunc(slices.Sorted(maps.Keys(tenancy)), func(call string) bool { return slices.Contains(last, call) })
	for _, call := range append(calls, last...) {
		if time.Since(m.renewed) > nimbus.OfferTimeout { // well before a lease runs out
			m.ours.renew(t, m.plane)
			m.theirs.renew(t, m.plane)
			m.plane.renewJobs(t)
			m.renewed = time.Now()
		}
		m.try(t, name, call, who)
	}
}

// thing is what stands for something that exists in an org.
var thing = regexp.MustCompile(`\$(job|waiting_job|lease|attempt|token|account|repo|repo_name|spare_\w+|workspace|shell)\b`)

// try makes one call as one caller, about its own org and the other.
func (m *matrix) try(t *testing.T, name, call string, who asker) {
	t.Helper()
	e := tenancy[call]
	home := who.headers
	if who.role == "platform" {
		home = append(slices.Clone(home), wire.OrgHeader, m.ours.org.ID)
	}
	defer func() { // at last: it may end the caller's session, or its job
		own := m.ask(t, call, m.ours, home)
		m.judge(t, name, call, "its own org", own, who.wants(e, false))
		if own.status/100 == 2 {
			m.served[call] = true
		}
	}()
	if who.role == "platform" {
		return // may act in every org
	}
	if thing.MatchString(e.body + e.path) {
		other, nothing := m.ask(t, call, m.theirs, home), m.ask(t, call, m.nothing, home)
		m.judge(t, name, call, "another org's things", other, who.wants(e, false))
		if who.role != "host" && (other.status != nothing.status || other.body != nothing.body) {
			m.leak(t, "%s as %s tells what exists in another org: %d %s, and of nothing %d %s", call, name, other.status, other.body, nothing.status, nothing.body)
		}
	}
	named := m.theirs.org.ID
	if name == "admin" {
		named = m.theirs.org.Name
	}
	inOther := m.ask(t, call, m.theirs, append(slices.Clone(home), wire.OrgHeader, named))
	m.judge(t, name, call, "in another org", inOther, who.wants(e, true))
	inNone := m.ask(t, call, m.nothing, append(slices.Clone(home), wire.OrgHeader, m.nothing.org.ID))
	if e.who != "anybody" && (inOther.status != inNone.status || inOther.body != inNone.body) {
		m.leak(t, "%s as %s tells which orgs exist: %d %s, and of none %d %s", call, name, inOther.status, inOther.body, inNone.status, inNone.body)
	}
}

// may tells whether an expectation lets somebody through, in its own org.
func (who asker) may(e expectation) bool {
	session := slices.Contains(who.headers, "Cookie")
	account := strings.HasPrefix(strings.TrimPrefix(strings.Join(who.headers, " "), "Authorization Bearer "), "nbs_account_")
	person := who.role != "" && who.role != "host"
	if len(who.scopes) > 0 && e.scope != "" && !slices.Contains(who.scopes, e.scope) {
		return false
	}
	switch e.who {
	case "person":
		return person
	case "member":
		return person && who.role != "platform"
	case "login":
		return person && !session && !account
	case "platform", "host":
		return who.role == e.who
	}
	roles := []string{"viewer", "developer", "operator", "admin", "platform"}
	return person && slices.Index(roles, who.role) >= slices.Index(roles, e.who)
}

// Statuses that the matrix waits for, beside those of HTTP.
const (
	anyAnswer = 0   // of a request that needs no caller
	answered  = 200 // neither refused nor broken
)

// wants is the status that a caller must get, where another org is named in
// the header if elsewhere is set.
func (who asker) wants(e expectation, elsewhere bool) int {
	person := who.role != "" && who.role != "host"
	scoped := len(who.scopes) == 0 || e.scope == "" || slices.Contains(who.scopes, e.scope)
	bound := e.bound || e.who != "platform" && e.who != "host"
	switch {
	case e.who == "anybody":
		return anyAnswer
	case !who.known:
		return http.StatusUnauthorized
	case elsewhere && bound && person && scoped:
		return http.StatusNotFound
	case elsewhere && who.role == "host", !who.may(e):
		return http.StatusForbidden
	}
	return answered
}

func (m *matrix) judge(t *testing.T, name, call, about string, got answer, want int) {
	t.Helper()
	refused := got.status == http.StatusUnauthorized || got.status == http.StatusForbidden
	switch {
	case got.status >= http.StatusInternalServerError,
		want == answered && refused,
		want != answered && want != anyAnswer && got.status != want:
		t.Errorf("%s as %s, %s: %d, want %d: %s", call, name, about, got.status, want, got.body)
	}
}

func (m *matrix) leak(t *testing.T, format string, args ...any) {
	t.Helper()
	m.figures.Leaks++
	t.Errorf("LEAK: "+format, args...)
}

// ask makes a call about a tenant's things, and looks for what is the other
// org's in the answer.
func (m *matrix) ask(t *testing.T, call string, about tenant, headers []string) answer {
	t.Helper()
	m.figures.Calls++
	e := tenancy[call]
	pattern, _, _ := strings.Cut(call, "#")
	method, path, ok := strings.Cut(pattern, " ")
	switch {
	case !ok && pattern == "/":
		method, path = http.MethodGet, pattern
	case !ok:
		method, path = http.MethodPost, pattern
	}
	if e.path != "" {
		path = e.path
	}
	path, body := about.fill(path), about.fill(e.body)
	got := m.askUntil(t, method, path, body, headers)
	platform := slices.Contains(headers, "Bearer "+m.plane.admin)
	for name, id := range m.theirs.things {
		sent := strings.Contains(path+body, id) && name == "attempt" // hosts are told again what they told
		if !platform && !sent && name != "fence" && name != "lease" && strings.Contains(got.body, id) {
			m.leak(t, "%s answers the other org's %s: %s", call, name, got.body)
		}
	}
	if !platform && strings.Contains(got.body, m.theirs.org.Name) && !strings.Contains(path+body, m.theirs.org.Name) {
		m.leak(t, "%s answers something of the other org: %s", call, got.body)
	}
	return got
}

// askUntil makes a request; a stream is read until our own job has appeared.
func (m *matrix) askUntil(t *testing.T, method, path, body string, headers []string) answer {
	t.Helper()
	if route, _, _ := strings.Cut(path, "?"); !strings.HasSuffix(route, "/stream") {
		return m.plane.ask(t, method, path, body, headers...)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, m.plane.url+path, nil)
	must(t, err)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	got, err := http.DefaultClient.Do(r)
	must(t, err)
	defer got.Body.Close()
	var read strings.Builder
	for buf := make([]byte, 4096); ; {
		n, err := got.Body.Read(buf)
		read.Write(buf[:n])
		if got.StatusCode == http.StatusOK && strings.Contains(read.String(), m.ours.things["attempt"]) {
			break
		}
		if err != nil {
			if err != io.EOF {
				t.Errorf("%s: %v after %s", path, err, read.String())
			}
			break
		}
	}
	return answer{got.StatusCode, read.String(), got.Header}
}
