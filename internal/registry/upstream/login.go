package upstream

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

const (
	// tokenFor is how long a token is valid of which its registry says nothing, and
	// tokenSlack how much sooner another one is asked for. mostTokenFor is how long
	// one is believed at most.
	tokenFor, tokenSlack, mostTokenFor = time.Minute, 5 * time.Second, time.Hour
	// mostTokens is of how many repositories tokens are remembered.
	mostTokens = 1000
	maxToken   = 64 << 10
)

// tokens are what a registry gave us for its repositories, as headers.
type tokens struct {
	mu sync.Mutex
	by map[string]token
}

type token struct {
	header string
	until  time.Time
}

func (t *tokens) get(repo string, now time.Time) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if has := t.by[repo]; now.Before(has.until) {
		return has.header
	}
	return ""
}

func (t *tokens) put(repo string, has token) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.by) >= mostTokens {
		clear(t.by)
	}
	t.by[repo] = has
}

// login does what a registry wants of who asks for a repository: a token of
// somebody whom it names, or our name and password.
func (c *Client) login(ctx context.Context, repo string, challenges []string) error {
	for _, text := range challenges {
		scheme, params := readChallenge(text)
		switch {
		case scheme == "bearer" && params["realm"] != "":
			return c.askToken(ctx, repo, params)
		case scheme == "basic" && c.cfg.Login != (Login{}):
			c.tokens.put(repo, token{basic(c.cfg.Login), c.cfg.Clock.Now().Add(mostTokenFor)})
			return nil
		}
	}
	return &Error{Kind: Denied, text: "it wants a login that we have not"}
}

func basic(l Login) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(l.Username+":"+l.Password))
}

// askToken asks where the registry says that tokens are. Our login goes there, as
// every client's does, and so never without TLS, unless the operator named it.
func (c *Client) askToken(ctx context.Context, repo string, params map[string]string) error {
	realm, err := url.Parse(params["realm"])
	if err != nil || realm.Host == "" || realm.User != nil {
		return away("where it says that tokens are is no address")
	}
	query := realm.Query()
	if params["service"] != "" {
		query.Set("service", params["service"])
	}
	// What we ask for is not the registry's choice: it is what we need.
	query.Set("scope", "repository:"+repo+":pull")
	realm.RawQuery = query.Encode()
	authorization := ""
	if c.cfg.Login != (Login{}) {
		authorization = basic(c.cfg.Login)
	}
	r, err := c.sendLogin(ctx, realm, authorization) //nolint:bodyclose // judge closes it, or it is closed below
	if err != nil {
		return err
	}
	if r, err = c.judge(r, realm); err != nil {
		if KindOf(err) == Unknown { // the one who gives tokens is, not what we want one for
			return broken("%s, where it says that tokens are, has none", realm.Host)
		}
		return err
	}
	defer r.Body.Close()
	content, err := readUpTo(r.Body, maxSmall)
	if err != nil {
		return err
	}
	var answer struct {
		Token       string  `json:"token"`
		AccessToken string  `json:"access_token"`
		ExpiresIn   float64 `json:"expires_in"`
	}
	err = json.Unmarshal(content, &answer)
	text := cmp.Or(answer.Token, answer.AccessToken)
	if err != nil || text == "" || len(text) > maxToken || strings.ContainsAny(text, "\r\n") {
		return away("%s gave no token that can be used", realm.Host)
	}
	valid := tokenFor
	if answer.ExpiresIn > 0 {
		valid = time.Duration(min(answer.ExpiresIn, mostTokenFor.Seconds()) * float64(time.Second))
	}
	if valid > 2*tokenSlack {
		valid -= tokenSlack
	}
	c.tokens.put(repo, token{"Bearer " + text, c.cfg.Clock.Now().Add(valid)})
	return nil
}

// sendLogin follows no redirect: our login is for whom the registry named.
func (c *Client) sendLogin(ctx context.Context, realm *url.URL, authorization string) (*http.Response, error) {
	once := &Client{cfg: c.cfg, http: http.Client{Transport: c.cfg.Line, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}}
	return once.send(ctx, http.MethodGet, realm, http.Header{}, authorization)
}

// readChallenge reads `Bearer realm="https://…",service="…"`.
func readChallenge(text string) (scheme string, params map[string]string) {
	scheme, rest, _ := strings.Cut(strings.TrimSpace(text), " ")
	params = map[string]string{}
	for rest != "" && len(params) < 20 {
		var name, value string
		name, rest, _ = strings.Cut(rest, "=")
		if quoted, ok := strings.CutPrefix(rest, `"`); ok {
			value, rest, _ = strings.Cut(quoted, `"`)
			_, rest, _ = strings.Cut(rest, ",")
		} else {
			value, rest, _ = strings.Cut(rest, ",")
		}
		params[strings.ToLower(strings.TrimSpace(name))] = strings.TrimSpace(value)
	}
	return strings.ToLower(scheme), params
}
