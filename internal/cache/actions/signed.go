package actions

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/transfer"
)

// purpose is what a signed URL is good for.
type purpose string

const (
	toGet purpose = "get"
	toPut purpose = "put"
	// toFetch reads an artifact.
	toFetch purpose = "fetch"
)

// signed is what a URL grants to whoever has it: one thing, to one content.
type signed struct {
	purpose purpose
	org     string
	id      int64
	expires int64  // Unix seconds
	job     string // for which it was made, and with which it ends; "" for a host's
}

// message is what is signed. The fields can't hold a line break.
func (s signed) message() []byte {
	if s.job == "" {
		return fmt.Appendf(nil, "nimbus cache url v1\n%s\n%s\n%d\n%d\n", s.purpose, s.org, s.id, s.expires)
	}
	return fmt.Appendf(nil, "nimbus cache url v2\n%s\n%s\n%d\n%d\n%s\n", s.purpose, s.org, s.id, s.expires, s.job)
}

func (s signed) mac(key []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(s.message())
	return m.Sum(nil)
}

// sign makes the URL of a content for the holder of a token. Its signature is in
// `sig`, which clients don't write to their logs.
func (h *handler) sign(r *http.Request, g Grant, what purpose, id int64) (string, error) {
	base, err := h.base(r)
	if err != nil {
		return "", err
	}
	path, valid := entryPath, h.DownloadFor
	switch what {
	case toGet:
	case toFetch:
		path = artifactPath
	case toPut:
		path, valid = uploadPath, h.UploadFor
	}
	until := h.Clock.Now().Add(valid)
	if g.ExpiresAt.Before(until) {
		until = g.ExpiresAt
	}
	return base + path + h.Keys.signed(signed{what, g.Caller.OrgID, id, until.Unix(), g.Caller.JobID}), nil
}

// signed is the end of a signed URL.
func (k *Keys) signed(s signed) string {
	query := url.Values{
		"org": {s.org}, "exp": {strconv.FormatInt(s.expires, 10)},
		"sig": {base64.RawURLEncoding.EncodeToString(s.mac(k.urls[0]))},
	}
	if s.job != "" {
		query.Set("job", s.job)
	}
	return strconv.FormatInt(s.id, 10) + "?" + query.Encode()
}

// DownloadPath is the path and query by which an entry can be read until a time,
// for who has no token of a job's: a host that is asked to have it.
func (k *Keys) DownloadPath(orgID string, entryID int64, until time.Time) string {
	return entryPath + k.signed(signed{toGet, orgID, entryID, until.Unix(), ""})
}

// verify reads the signed URL of a request, and asks whether its job still runs, as
// is asked for its token: a URL ends with the job. Codes: forbidden.
func (h *handler) verify(r *http.Request, query url.Values, what purpose) (signed, error) {
	refused := nimbus.Errorf(nimbus.CodeForbidden, "the URL is not signed for this").WithHint("ask for a new one with the job's token")
	for _, name := range []string{"org", "exp", "sig"} {
		if len(query[name]) != 1 {
			return signed{}, refused
		}
	}
	id, ok1 := transfer.Plain(r.PathValue("id"))
	expires, ok2 := transfer.Plain(query.Get("exp"))
	mac, err := base64.RawURLEncoding.Strict().DecodeString(query.Get("sig"))
	if !ok1 || !ok2 || err != nil {
		return signed{}, refused
	}
	if len(query["job"]) > 1 {
		return signed{}, refused
	}
	s := signed{what, query.Get("org"), id, expires, query.Get("job")}
	good := false
	for _, key := range h.Keys.urls { // each of them, always
		good = hmac.Equal(s.mac(key), mac) || good
	}
	if !good {
		return signed{}, refused
	}
	if !h.Clock.Now().Before(time.Unix(expires, 0)) {
		return signed{}, nimbus.Errorf(nimbus.CodeForbidden, "the URL has expired").WithHint("ask for a new one with the job's token")
	}
	return s, h.stillOf(r.Context(), s)
}

// stillOf says whether a URL that was good still is: its job runs. A host's reads an
// entry, for no job. Codes: forbidden.
func (h *handler) stillOf(ctx context.Context, s signed) error {
	if s.job == "" && s.purpose == toGet {
		return nil
	}
	err := h.Admit(ctx, cache.Caller{OrgID: s.org, JobID: s.job})
	if nimbus.ErrorCode(err) == nimbus.CodeUnauthenticated {
		return nimbus.Errorf(nimbus.CodeForbidden, "the URL has ended: %w", err)
	}
	return err
}

// base is how URLs begin.
func (h *handler) base(r *http.Request) (string, error) {
	if !h.TrustHost {
		return strings.TrimSuffix(h.PublicURL, "/"), nil
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	base := scheme + "://" + r.Host
	if err := checkBase(base); err != nil {
		return "", nimbus.Errorf(nimbus.CodeInvalid, "the request names the host %.100q", r.Host)
	}
	return base, nil
}

// checkBase refuses what is no scheme and host.
func checkBase(base string) error {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" ||
		u.RawQuery != "" || u.Fragment != "" || !isHost(u.Hostname()) {
		return nimbus.Errorf(nimbus.CodeInvalid, "the Actions cache has no public URL: %.200q is none", base).
			WithHint("give scheme and host, without a path, as https://nimbus.example")
	}
	return nil
}

// isHost tells whether a text is a name or an address.
func isHost(host string) bool {
	const of = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._"
	return net.ParseIP(host) != nil || strings.Trim(host, of) == ""
}
