// Package upstream asks other registries for what a mirror has not: manifests,
// blobs and tags, by the protocol of OCI registries and the ways in which they want
// to be logged in to. Who is asked is the choice of people of an org, and where
// that leads is the choice of who is asked: so addresses are looked at when a
// connection is made, redirects have a bound and take no login with them, and
// everything that comes has a bound.
package upstream

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
)

const (
	// headerTimeout is how long an upstream may take until it answers, smallTimeout
	// how long for an answer that is no blob.
	headerTimeout = 30 * time.Second
	smallTimeout  = time.Minute
	// idleTimeout is how long a blob may bring nothing, and of what it has to bring
	// leastBytes while it is waited for leastEvery; wholeTimeout is how long all of it
	// may take.
	idleTimeout  = 45 * time.Second
	leastEvery   = time.Minute
	leastBytes   = 60 * (16 << 10) // 16 KiB a second
	wholeTimeout = 6 * time.Hour
	maxRedirects = 5
	// maxSmall bounds answers that are neither blobs nor manifests, maxList lists of
	// tags.
	maxSmall, maxList = 1 << 20, 4 << 20
)

// Kind says what an upstream's refusal means.
type Kind string

// The kinds.
const (
	// Denied: it does not give us that, or not to who we say that we are.
	Denied Kind = "denied"
	// Unknown: it has no such thing.
	Unknown Kind = "unknown"
	// Limited: we asked too often.
	Limited Kind = "limited"
	// Away: it can't be reached, or nothing behind it can.
	Away Kind = "away"
	// Broken: it can be reached, and does not do what it should with this one thing.
	// Others of it may well come.
	Broken Kind = "broken"
	// Inside: it is at an address that the operator has not named.
	Inside Kind = "inside"
)

// Error is why an upstream did not give something. Its text names nothing but
// hosts: addresses of blobs are often signed, and a login is in none of it.
type Error struct {
	Kind  Kind
	After time.Duration // of Limited: when to ask again
	// Elsewhere: it is not the registry that fails so, but who it sent us to.
	Elsewhere bool
	text      string
}

// Error implements error.
func (e *Error) Error() string { return e.text }

// KindOf is the kind of an error.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Away
}

// Login is who we are to a registry. The zero value is nobody.
type Login struct{ Username, Password string }

// Budget is what a registry says of how often it may still be asked.
type Budget struct {
	Remaining int64
	Reset     time.Duration // when there is more; 0: it does not say
}

// Config is what a client needs.
type Config struct {
	URL   *url.URL // https://registry-1.docker.io
	Login Login
	Line  *Line // required; shared by clients
	// Budget hears what the registry says of how often it may be asked. It must not
	// block. Default: nobody does.
	Budget func(Budget)
	Clock  nimbus.Clock // default: the machine's
}

// Client asks one registry. Safe for concurrent use.
type Client struct {
	cfg    Config
	http   http.Client
	tokens tokens
}

// New returns a client, which has connected to nobody yet.
func New(cfg Config) *Client {
	if cfg.Clock == nil {
		cfg.Clock = nimbus.SystemClock{}
	}
	if cfg.Budget == nil {
		cfg.Budget = func(Budget) {}
	}
	c := &Client{cfg: cfg, tokens: tokens{by: map[string]token{}}}
	c.http = http.Client{Transport: cfg.Line, CheckRedirect: c.redirect}
	return c
}

// redirect follows to elsewhere without the login, and not back to where anybody
// can listen.
func (c *Client) redirect(r *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return &Error{Kind: Broken, text: "it redirects more often than " + strconv.Itoa(maxRedirects) + " times"}
	}
	if !sameOrigin(r.URL, c.cfg.URL) {
		r.Header.Del("Authorization")
	}
	r.Header.Del("Referer") // it may be signed
	return nil
}

func sameOrigin(a, b *url.URL) bool { return a.Scheme == b.Scheme && address(a) == address(b) }

// Manifest is one that a registry has.
type Manifest struct {
	Digest    string // as it says; "" where it does not
	MediaType string
	Content   []byte // nil where only its name was asked for, or it is unchanged
	Unchanged bool   // it is the one of the digest that was asked with
}

// accepted are the kinds of manifests that a mirror keeps.
const accepted = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, " +
	"application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json"

// Name is the digest that a tag stands for, asked for by HEAD, which registries do
// not count as a pull. have is the digest that it was, "" for none.
func (c *Client) Name(ctx context.Context, repo, tag, have string) (Manifest, error) {
	return c.manifest(ctx, http.MethodHead, repo, tag, have, 0)
}

// Manifest is a manifest by its digest or a tag, of up to most bytes.
func (c *Client) Manifest(ctx context.Context, repo, reference string, most int64) (Manifest, error) {
	return c.manifest(ctx, http.MethodGet, repo, reference, "", most)
}

func (c *Client) manifest(ctx context.Context, method, repo, reference, have string, most int64) (m Manifest, err error) {
	ctx, cancel := context.WithTimeout(ctx, smallTimeout)
	defer cancel()
	header := http.Header{"Accept": {accepted}}
	if have != "" {
		header.Set("If-None-Match", `"`+have+`"`)
	}
	r, err := c.do(ctx, method, repo, "manifests/"+reference, "", header)
	if err != nil {
		return m, err
	}
	defer r.Body.Close()
	m = Manifest{Digest: r.Header.Get("Docker-Content-Digest"), MediaType: r.Header.Get("Content-Type"), Unchanged: r.StatusCode == http.StatusNotModified}
	if m.Unchanged && have == "" {
		return m, broken("it says that nothing has changed, and was not asked that")
	}
	if m.Unchanged || method == http.MethodHead {
		return m, nil
	}
	m.Content, err = readUpTo(r.Body, most)
	return m, err
}

func readUpTo(r io.Reader, most int64) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return nil, broken("its answer broke off: %s", cause(err))
	}
	if int64(len(content)) > most {
		return nil, broken("its answer has more than %d bytes", most)
	}
	return content, nil
}

// Size is how many bytes a blob has, -1 where the registry does not say.
func (c *Client) Size(ctx context.Context, repo, digest string) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, smallTimeout)
	defer cancel()
	r, err := c.do(ctx, http.MethodHead, repo, "blobs/"+digest, "", http.Header{})
	if err != nil {
		return 0, err
	}
	return r.ContentLength, errors.Join(r.Body.Close())
}

// Blob begins to read a blob. size is -1 where the registry does not say. The
// content is not looked at. It ends with ctx, and where nothing or too little comes for long.
func (c *Client) Blob(ctx context.Context, repo, digest string) (body io.ReadCloser, size int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, wholeTimeout)
	// As it was stored: who unpacks on the way reads another content.
	r, err := c.do(ctx, http.MethodGet, repo, "blobs/"+digest, "", http.Header{"Accept-Encoding": {"identity"}}) //nolint:bodyclose // the download closes it
	if err != nil {
		cancel()
		return nil, 0, err
	}
	return newDownload(r.Body, cancel), r.ContentLength, nil
}

// Tags are some of the tags of a repository, behind one; more tells whether there
// are others.
func (c *Client) Tags(ctx context.Context, repo, after string, most int) (tags []string, more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, smallTimeout)
	defer cancel()
	query := url.Values{"n": {strconv.Itoa(most)}}
	if after != "" {
		query.Set("last", after)
	}
	r, err := c.do(ctx, http.MethodGet, repo, "tags/list", query.Encode(), http.Header{})
	if err != nil {
		return nil, false, err
	}
	defer r.Body.Close()
	// Some registries know no pages, and send all that there is.
	content, err := readUpTo(r.Body, maxList)
	if err != nil {
		return nil, false, err
	}
	var list struct {
		Tags []string `json:"tags"`
	}
	if err := json.Unmarshal(content, &list); err != nil {
		return nil, false, broken("its list of tags can't be read")
	}
	return list.Tags, r.Header.Get("Link") != "", nil
}

// do asks for something below a repository: as we did last, and logged in as it
// wants where that was not right.
func (c *Client) do(ctx context.Context, method, repo, what, query string, header http.Header) (*http.Response, error) {
	u := *c.cfg.URL
	u.Path = strings.TrimSuffix(u.Path, "/") + "/v2/" + repo + "/" + what
	u.RawQuery = query
	for first := true; ; first = false {
		authorization := c.tokens.get(repo, c.cfg.Clock.Now())
		r, err := c.send(ctx, method, &u, header, authorization)
		if err != nil {
			return nil, err
		}
		if b, ok := budgetOf(r.Header); ok && !elsewhere(r.Request.URL, &u) {
			c.cfg.Budget(b)
		}
		// Who it leads to has no say in where our login goes.
		if r.StatusCode != http.StatusUnauthorized || !first || elsewhere(r.Request.URL, &u) {
			return c.judge(r, &u)
		}
		challenges := r.Header.Values("WWW-Authenticate")
		discard(r)
		if err := c.login(ctx, repo, challenges); err != nil {
			return nil, err
		}
	}
}

func (c *Client) send(ctx context.Context, method string, u *url.URL, header http.Header, authorization string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, away("its address can't be asked")
	}
	request.Header = header.Clone()
	request.Header.Set("User-Agent", "nimbus-registry")
	if authorization != "" {
		request.Header.Set("Authorization", authorization)
	}
	r, err := c.http.Do(request)
	if err != nil {
		return nil, failed(err, u)
	}
	return r, nil
}

// judge is what an answer means to who asked for an address. The body of one that is
// of use stays open.
func (c *Client) judge(r *http.Response, asked *url.URL) (*http.Response, error) {
	switch code := r.StatusCode; code {
	case http.StatusOK, http.StatusNotModified:
		return r, nil
	case http.StatusTooManyRequests:
		discard(r)
		return nil, &Error{Kind: Limited, After: c.after(r.Header), text: "it has been asked too often, and wants a pause"}
	case http.StatusUnauthorized, http.StatusForbidden:
		discard(r)
		return nil, &Error{Kind: Denied, text: fmt.Sprintf("it does not give us that (status %d)", code)}
	case http.StatusNotFound:
		discard(r)
		return nil, &Error{Kind: Unknown, text: "it has no such thing"}
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		discard(r)
		if elsewhere(r.Request.URL, asked) {
			return nil, broken("%s, to which it leads, answers with status %d", r.Request.URL.Host, code)
		}
		return nil, away("it answers with status %d", code)
	default:
		discard(r)
		return nil, broken("it answers with status %d", code)
	}
}

// discard reads what is left of a small answer, so that its connection can be used
// again.
func discard(r *http.Response) {
	_, _ = io.CopyN(io.Discard, r.Body, 64<<10)
	_ = r.Body.Close()
}

func broken(format string, args ...any) error {
	return &Error{Kind: Broken, text: fmt.Sprintf(format, args...)}
}

func away(format string, args ...any) error {
	return &Error{Kind: Away, text: fmt.Sprintf(format, args...)}
}

// elsewhere tells whether what was asked is not where we wanted to ask: then its
// failure says nothing of the registry, which has sent us there for one thing.
func elsewhere(at, wanted *url.URL) bool { return at != nil && address(at) != address(wanted) }

// failed is why no answer came, without the address: that may be a signed one.
func failed(err error, wanted *url.URL) error {
	at := wanted
	var of *url.Error
	if errors.As(err, &of) {
		if u, err := url.Parse(of.URL); err == nil {
			at = u
		}
	}
	other := elsewhere(at, wanted)
	var own *Error
	switch {
	case errors.As(err, &own):
		told := *own
		told.Elsewhere = other
		return &told
	case other:
		return broken("%s, to which it leads, can't be asked: %s", at.Host, cause(err))
	}
	return away("%s can't be asked: %s", at.Host, cause(err))
}

// cause is what went wrong, without any address: neither one that was asked, which
// may be signed, nor one of ours, or of who looks names up for us.
func cause(err error) string {
	var name *net.DNSError
	if errors.As(err, &name) {
		return noName(name)
	}
	var of *url.Error
	if errors.As(err, &of) {
		err = of.Err
	}
	var words []string
	for op := (*net.OpError)(nil); errors.As(err, &op) && op.Err != nil; err = op.Err {
		words = append(words, op.Op)
	}
	return strings.Join(append(words, err.Error()), ": ")
}

func noName(err *net.DNSError) string {
	switch {
	case err.IsNotFound:
		return "there is no such name"
	case err.IsTimeout:
		return "nobody tells in time where that is"
	}
	return "it can't be learnt where that is"
}

// The pauses after which a registry is asked again that wanted one, and did not say
// or said too much.
const (
	usualPause = time.Minute
	mostPause  = time.Hour
)

// after is how long a registry wants a pause: it says so in seconds, or by a date.
func (c *Client) after(header http.Header) time.Duration {
	text := header.Get("Retry-After")
	if n, err := strconv.ParseInt(text, 10, 32); err == nil && n > 0 {
		return min(time.Duration(n)*time.Second, mostPause)
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(time.Second, min(at.Sub(c.cfg.Clock.Now()), mostPause))
	}
	return usualPause
}

// budgetOf reads `RateLimit-Remaining: 95;w=21600`, and the newer names beside it.
func budgetOf(header http.Header) (b Budget, ok bool) {
	text := cmp.Or(header.Get("Ratelimit-Remaining"), header.Get("X-Ratelimit-Remaining"))
	number, _, _ := strings.Cut(text, ";")
	n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
	if err != nil {
		return b, false
	}
	b.Remaining = n
	if s, err := strconv.ParseInt(header.Get("Ratelimit-Reset"), 10, 32); err == nil && s > 0 {
		b.Reset = min(time.Duration(s)*time.Second, mostPause)
	}
	return b, true
}
