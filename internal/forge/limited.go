package forge

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// limitedTransport makes the calls of one payer when the limiter lets it.
type limitedTransport struct {
	limiter *limiter
	payer   int64
	next    http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t *limitedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	end, err := t.limiter.take(r.Context(), costOf(r, t.payer), urgencyOf(r.Context()))
	if err != nil {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, err
	}
	resp, err := t.next.RoundTrip(r)
	if err != nil {
		end(nil, false)
		return nil, err
	}
	refused, err := refusedForLimit(resp)
	end(resp, refused)
	if err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// costOf is what a call costs by GitHub's rules.
func costOf(r *http.Request, payer int64) cost {
	c := cost{payer: payer, bucket: bucketCore, points: 1}
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return c
	}
	c.points = 5
	switch {
	case strings.HasSuffix(r.URL.Path, "/actions/runners/generate-jitconfig"):
		c.bucket, c.runner = bucketRunners, true
	case strings.HasSuffix(r.URL.Path, "/access_tokens"), r.Method == http.MethodDelete:
	case strings.HasSuffix(r.URL.Path, "/actions/runners/registration-token"), strings.HasSuffix(r.URL.Path, "/actions/runner-registration"):
	default:
		c.content = true
	}
	return c
}

// maxRefusal is how much of a refusal is read to learn whether it is a limit.
const maxRefusal = 64 << 10

// refusedForLimit tells a limit from a refusal for good, for which it may have
// to look into the body.
func refusedForLimit(resp *http.Response) (bool, error) {
	if resp.StatusCode != http.StatusForbidden && resp.StatusCode != http.StatusTooManyRequests {
		return false, nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
	if err != nil {
		return false, fmt.Errorf("read the refusal: %w", err)
	}
	resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return rateLimited(resp, string(body)), nil
}

type urgencyKey struct{}

// withUrgency says how urgent the calls are that are made with ctx.
func withUrgency(ctx context.Context, u urgency) context.Context {
	return context.WithValue(ctx, urgencyKey{}, u)
}

func urgencyOf(ctx context.Context) urgency {
	u, ok := ctx.Value(urgencyKey{}).(urgency)
	if !ok {
		return ordinary
	}
	return u
}
