package s3

import (
	"errors"
	"io"
	"net/http"
	"sync"
)

// bodyGuard has a body be read no more once its request is answered. A server may
// answer before it has all, and Go's transport then goes on to read for a while,
// when the memory that it reads already holds the next part, or is sent again.
type bodyGuard struct{ behind http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (g bodyGuard) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return g.behind.RoundTrip(r)
	}
	body := &guardedBody{behind: r.Body, left: r.ContentLength}
	guarded := r.WithContext(r.Context()) // a copy: a request is not changed on its way
	guarded.Body, guarded.GetBody = body, nil
	defer body.answered()
	return g.behind.RoundTrip(guarded)
}

var errAnswered = errors.New("the request is answered")

type guardedBody struct {
	mu     sync.Mutex
	behind io.ReadCloser
	left   int64 // to be read; negative: not known
	over   bool
}

// Read implements io.Reader.
func (b *guardedBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		if b.left == 0 { // the connection is as good as before
			return 0, io.EOF
		}
		return 0, errAnswered
	}
	n, err := b.behind.Read(p)
	b.left -= int64(n)
	return n, err
}

// Close implements io.Closer.
func (b *guardedBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
	return b.behind.Close()
}

func (b *guardedBody) answered() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
}
