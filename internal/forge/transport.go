package forge

import (
	"errors"
	"io"
	"net"
	"net/http"
	"time"
)

// maxResponse bounds an answer of the API; the largest that we ask for is a
// page of runners.
const maxResponse = 4 << 20

var errResponseTooLarge = errors.New("the answer is over 4 MiB")

// longTransport is for polls, which are answered after up to a minute.
func longTransport() *http.Transport {
	t := newTransport()
	t.ResponseHeaderTimeout = scaleSetPoll
	return t
}

// newTransport is the pool that all installations share.
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		TLSHandshakeTimeout:   5 * time.Second,
		ResponseHeaderTimeout: 10 * time.Second,
		MaxIdleConnsPerHost:   16,
		MaxConnsPerHost:       64, // GitHub's secondary limit is 100 concurrent calls
		IdleConnTimeout:       90 * time.Second,
	}
}

// boundedTransport cuts answers off at maxResponse.
type boundedTransport struct{ next http.RoundTripper }

// RoundTrip makes the call; reading past maxResponse fails.
func (t boundedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = &boundedBody{ReadCloser: resp.Body, left: maxResponse}
	return resp, nil
}

type boundedBody struct {
	io.ReadCloser
	left int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errResponseTooLarge
	}
	return n, err
}
