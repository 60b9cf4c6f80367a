package httpapi_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/httpapi"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// TestStrangersSendNothing: who nobody knows is refused before the message
// is read, here before it is sent.
func TestStrangersSendNothing(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	conn, err := net.Dial("tcp", p.address)
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	fmt.Fprint(conn, "POST /nimbus.v1.JobService/ListJobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 8000000\r\n\r\n{")
	got, err := http.ReadResponse(bufio.NewReader(conn), nil)
	must(t, err)
	defer got.Body.Close()
	if got.StatusCode != http.StatusUnauthorized {
		t.Errorf("answered %s", got.Status)
	}
}

func TestBoundsOfBodies(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	long := func(n int) string { return `{"name":"` + strings.Repeat("x", n) + `"}` }
	checkRefusal(t, "a stranger's long Join", p.ask(t, http.MethodPost, "/nimbus.v1.AgentService/Join", long(65<<10)), http.StatusTooManyRequests, nimbus.CodeTooLarge, "too large")
	if got := p.ask(t, http.MethodPost, "/nimbus.v1.AgentService/Join", long(1<<10)); got.status != http.StatusUnauthorized {
		t.Errorf("a stranger's Join: %d %.100s", got.status, got.body)
	}
	checkRefusal(t, "a long call", p.asAdmin(t, http.MethodPost, "/nimbus.v1.JobService/SubmitJob", long(9<<20)), http.StatusTooManyRequests, nimbus.CodeTooLarge, "too large")
	if got := p.asAdmin(t, http.MethodPost, "/nimbus.v1.JobService/ListJobs", "{}"); got.status != http.StatusOK {
		t.Errorf("the next call: %d %.100s", got.status, got.body)
	}
}

// brokenJobs has a fault of ours in one call and a panic in another.
type brokenJobs struct{ *scheduler.Service }

func (brokenJobs) Job(context.Context, string, string) (nimbus.Job, error) {
	return nimbus.Job{}, errors.New("the table of secrets is gone")
}

func (brokenJobs) EventPage(context.Context, string, string, int, string) ([]nimbus.JobEvent, string, error) {
	panic("secret")
}

type brokenIdentity struct{ *identity.Service }

func (brokenIdentity) CreateLogin(context.Context, nimbus.Principal, string) (string, error) {
	panic("secret")
}

// TestFaultsTellTheirRequestAlone: the caller gets the id under which the fault
// is logged, and the next request is answered.
func TestFaultsTellTheirRequestAlone(t *testing.T) {
	t.Parallel()
	p := startPlane(t, func(c *httpapi.Config) {
		id, ok := c.Identity.(*identity.Service)
		if !ok {
			t.Fatal("it isn't the real one")
		}
		c.Jobs, c.Identity = brokenJobs{}, brokenIdentity{id}
	})
	for _, call := range []string{
		"POST /nimbus.v1.JobService/GetJob", "POST /nimbus.v1.JobService/ListJobEvents", "GET /api/v1/jobs/x/log", "POST /api/v1/logins",
	} {
		method, path, _ := strings.Cut(call, " ")
		got := p.asAdmin(t, method, path, "{}")
		id := got.header.Get("Nimbus-Request")
		if got.status != http.StatusInternalServerError || id == "" || !strings.HasSuffix(got.header.Get("Nimbus-Hint"), id) {
			t.Errorf("%s: %d %v", call, got.status, got.header)
		}
		if strings.Contains(got.body, "secret") || !strings.Contains(got.body, "internal error") {
			t.Errorf("%s tells %s", call, got.body)
		}
	}
}

func TestOtherPagesCannotAct(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	code, err := p.identity.CreateLogin(t.Context(), identity.Root(), "")
	must(t, err)
	if got := p.ask(t, http.MethodHead, "/login?code="+code, ""); got.header.Get("Set-Cookie") != "" {
		t.Error("a look at the link signs in")
	}
	cookie, _, _ := strings.Cut(p.ask(t, http.MethodGet, "/login?code="+code, "").header.Get("Set-Cookie"), ";")
	if cookie == "" {
		t.Fatal("a look at the link spent it")
	}
	for _, c := range []struct {
		site, origin string
		want         int
	}{
		{"same-origin", "", http.StatusOK},
		{"", p.url, http.StatusOK}, // plain http: browsers send no Sec-Fetch-Site
		{"", "", http.StatusForbidden},
		{"", "null", http.StatusForbidden},
		{"", "http://127.0.0.1:1", http.StatusForbidden},
		{"", p.url + ".example.com", http.StatusForbidden},
		{"same-site", p.url, http.StatusForbidden},
		{"cross-site", p.url, http.StatusForbidden},
	} {
		headers := []string{"Cookie", cookie}
		if c.site != "" {
			headers = append(headers, "Sec-Fetch-Site", c.site)
		}
		if c.origin != "" {
			headers = append(headers, "Origin", c.origin)
		}
		if got := p.ask(t, http.MethodPost, "/nimbus.v1.JobService/ListJobs", "{}", headers...); got.status != c.want {
			t.Errorf("from site %q, origin %q: %d, want %d", c.site, c.origin, got.status, c.want)
		}
	}
}

// TestHTTP2WithoutTLS: agents keep one connection for all their calls.
func TestHTTP2WithoutTLS(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: &protocols}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url+"/healthz", nil)
	must(t, err)
	got, err := transport.RoundTrip(r)
	must(t, err)
	defer got.Body.Close()
	if got.StatusCode != http.StatusOK || got.ProtoMajor != 2 {
		t.Errorf("%s over %s", got.Status, got.Proto)
	}
}
