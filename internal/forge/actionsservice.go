package forge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-github/v92/github"

	nimbus "github.com/nimbus-ci/nimbus"
)

// Times and bounds of calling the Actions service.
const (
	serviceVersion = "6.0-preview"
	// serviceEarly is how long before its end an admin token is made anew.
	serviceEarly = time.Minute
	// scaleSetPoll is how long a poll may take; GitHub answers after 50 s.
	scaleSetPoll = 75 * time.Second
	// maxConnections bounds what is kept; beyond it one is made anew.
	maxConnections = 256
	// A registration token may not be known everywhere at once: then the
	// service refuses it, and is asked again.
	registerTries = 3
	registerPause = time.Second
)

// actionsService is the part of GitHub that keeps scale sets. It is no part of
// the REST API: it has addresses, tokens and errors of its own, which
// github.com/actions/scaleset documents by its code.
type actionsService struct {
	app  *App
	long http.RoundTripper // for polls

	mu   sync.Mutex
	open map[serviceKey]serviceConnection
}

// serviceKey is as whom the service is called.
type serviceKey struct {
	installation int64
	organization string
}

type serviceConnection struct {
	url, token string
	until      time.Time
}

// connection is one that is good now.
func (s *actionsService) connection(ctx context.Context, k serviceKey) (serviceConnection, error) {
	s.mu.Lock()
	c, ok := s.open[k]
	s.mu.Unlock()
	if ok && s.app.clock.Now().Before(c.until) {
		return c, nil
	}
	c, err := s.connect(ctx, k)
	if err != nil {
		return c, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.open) >= maxConnections {
		clear(s.open)
	}
	s.open[k] = c
	return c, nil
}

// forget drops a connection, unless it was replaced already.
func (s *actionsService) forget(k serviceKey, c serviceConnection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[k] == c {
		delete(s.open, k)
	}
}

// connect trades the installation's token for an address and a token of the
// service.
func (s *actionsService) connect(ctx context.Context, k serviceKey) (serviceConnection, error) {
	if !ownerName.MatchString(k.organization) {
		return serviceConnection{}, nimbus.Errorf(nimbus.CodeInvalid, "%q is no organisation's name", k.organization)
	}
	var token *github.RegistrationToken
	err := s.app.callAs(ctx, k.installation, "make a registration token", func(ctx context.Context, c *github.Client) (err error) {
		token, _, err = c.Actions.CreateOrganizationRegistrationToken(ctx, k.organization)
		return err
	})
	if err != nil {
		return serviceConnection{}, err
	}
	web, err := webAddress(s.app.baseURL)
	if err != nil {
		return serviceConnection{}, err
	}
	var answer struct {
		URL   string `json:"url"`
		Token string `json:"token"`
	}
	ask := map[string]string{"url": web + "/" + k.organization, "runner_event": "register"}
	for try := 1; ; try++ {
		err = s.do(ctx, serviceCall{
			what: "reach the Actions service", method: http.MethodPost, url: s.app.baseURL + "/actions/runner-registration", in: ask, out: &answer,
			auth: "RemoteAuth " + token.GetToken(), over: &limitedTransport{s.app.limits, k.installation, s.app.shared},
		})
		if code := nimbus.ErrorCode(err); code != nimbus.CodeForbidden && code != nimbus.CodeUnauthenticated || try == registerTries {
			break
		}
		select {
		case <-time.After(registerPause):
		case <-ctx.Done():
			return serviceConnection{}, context.Cause(ctx)
		}
	}
	if err != nil {
		return serviceConnection{}, err
	}
	return s.opened(answer.URL, answer.Token)
}

func (s *actionsService) opened(address, token string) (serviceConnection, error) {
	var claims jwt.RegisteredClaims
	_, _, err := jwt.NewParser().ParseUnverified(token, &claims)
	if err != nil || claims.ExpiresAt == nil || link(address) == "" {
		return serviceConnection{}, nimbus.Errorf(nimbus.CodeUnavailable, "GitHub answered without the address and token of its Actions service")
	}
	return serviceConnection{url: strings.TrimRight(address, "/"), token: token, until: claims.ExpiresAt.Add(-serviceEarly)}, nil
}

// serviceCall is one call of the service.
type serviceCall struct {
	what, method, url string
	in, out           any // JSON; nil for none
	auth              string
	header            http.Header
	over              http.RoundTripper // default the pool of the App
	timeout           time.Duration     // default that of the App
}

// call calls the service as an installation. A token that the service takes no
// longer is made anew once.
func (s *actionsService) call(ctx context.Context, k serviceKey, path string, query url.Values, call serviceCall) error {
	for retried := false; ; retried = true {
		c, err := s.connection(ctx, k)
		if err != nil {
			return err
		}
		if query == nil {
			query = url.Values{}
		}
		query.Set("api-version", serviceVersion)
		call.url, call.auth = c.url+"/"+path+"?"+query.Encode(), "Bearer "+c.token
		err = s.do(ctx, call)
		if nimbus.ErrorCode(err) != nimbus.CodeUnauthenticated {
			return err
		}
		s.forget(k, c)
		if retried {
			return nimbus.Errorf(nimbus.CodeForbidden, "%w", err)
		}
	}
}

// do makes a call, and translates what is refused. Codes: unauthenticated for a
// token that is not taken, and those of App.
func (s *actionsService) do(ctx context.Context, call serviceCall) error {
	if call.timeout == 0 {
		call.timeout = s.app.timeout
	}
	if call.over == nil {
		call.over = s.app.shared
	}
	ctx, cancel := context.WithTimeout(ctx, call.timeout)
	defer cancel()
	var body io.Reader
	if call.in != nil {
		raw, err := json.Marshal(call.in)
		if err != nil {
			return fmt.Errorf("encode what GitHub is asked: %w", err)
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, call.method, call.url, body)
	if err != nil {
		return nimbus.Errorf(nimbus.CodeUnavailable, "%s: GitHub gave a bad address", call.what)
	}
	for name, values := range call.header {
		req.Header[name] = values
	}
	req.Header.Set("Authorization", call.auth)
	req.Header.Set("User-Agent", userAgent)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json; api-version="+serviceVersion)
	resp, err := call.over.RoundTrip(req)
	if err != nil {
		return translate(call.what, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return translate(call.what, err)
	case resp.StatusCode/100 != 2:
		return serviceRefused(call.what, resp, raw)
	case call.out == nil || resp.StatusCode == http.StatusAccepted || resp.StatusCode == http.StatusNoContent:
		return nil
	}
	if err := json.Unmarshal(bytes.TrimPrefix(raw, []byte("\xef\xbb\xbf")), call.out); err != nil {
		return nimbus.Errorf(nimbus.CodeUnavailable, "%s: GitHub's answer can't be read: %w", call.what, err)
	}
	return nil
}

// serviceRefused turns a refusal of the service into an error. Its exceptions
// say more than their status.
func serviceRefused(what string, resp *http.Response, body []byte) error {
	var exception struct {
		TypeName string `json:"typeName"`
		Message  string `json:"message"`
	}
	_ = json.Unmarshal(body, &exception) // else the status has to do
	why := text(exception.Message)
	is := func(name string) bool { return strings.Contains(exception.TypeName, name) }
	var code nimbus.Code
	switch {
	case is("AgentExistsException"), is("JobStillRunningException"), is("SessionConflictException"):
		code = nimbus.CodeConflict
	case is("NotFoundException"):
		code = nimbus.CodeNotFound
	case resp.StatusCode == http.StatusUnauthorized:
		code = nimbus.CodeUnauthenticated
	default:
		return refused(what, resp, why, errors.New("the Actions service refused it"))
	}
	return nimbus.Errorf(code, "%s: GitHub answered %d: %s", what, resp.StatusCode, why)
}
