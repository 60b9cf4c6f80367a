package forge

import (
	"bytes"
	"container/list"
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
)

// Bounds of the answers that are kept to be asked for again.
const (
	maxKept      = 4096
	maxKeptBytes = 32 << 20
	maxKeptOne   = 2 << 20 // a larger one is not kept
)

type conditionalKey struct{}

// conditionally has what is read with ctx asked for by what was answered before:
// an answer that is still the same costs nothing of GitHub's primary limits.
func conditionally(ctx context.Context) context.Context {
	return context.WithValue(ctx, conditionalKey{}, true)
}

// kept is an answer that GitHub gave to a payer.
type kept struct {
	key    keptKey
	etag   string
	header http.Header
	body   []byte
}

// keptKey tells answers apart. What one installation may see is no other's.
type keptKey struct {
	payer int64
	url   string
}

// answers are those that were used last, within bounds. All payers share them.
type answers struct {
	mu     sync.Mutex
	byKey  map[keptKey]*list.Element
	latest *list.List // of *kept, the latest used first
	bytes  int
}

func newAnswers() *answers {
	return &answers{byKey: map[keptKey]*list.Element{}, latest: list.New()}
}

func (a *answers) get(key keptKey) *kept {
	a.mu.Lock()
	defer a.mu.Unlock()
	e := a.byKey[key]
	if e == nil {
		return nil
	}
	a.latest.MoveToFront(e)
	k, _ := e.Value.(*kept) // nothing else is in it
	return k
}

func (a *answers) put(k *kept) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.drop(a.byKey[k.key])
	a.byKey[k.key] = a.latest.PushFront(k)
	a.bytes += len(k.body)
	for a.latest.Len() > maxKept || a.bytes > maxKeptBytes {
		a.drop(a.latest.Back())
	}
}

// drop forgets one. a.mu is held.
func (a *answers) drop(e *list.Element) {
	if e == nil {
		return
	}
	k, _ := a.latest.Remove(e).(*kept)
	delete(a.byKey, k.key)
	a.bytes -= len(k.body)
}

// conditionalTransport asks for what was answered before by its ETag, and gives
// the answer from before where GitHub says that it is the same.
type conditionalTransport struct {
	answers *answers
	payer   int64
	next    http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t *conditionalTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if on, _ := r.Context().Value(conditionalKey{}).(bool); !on || r.Method != http.MethodGet {
		return t.next.RoundTrip(r)
	}
	key := keptKey{t.payer, r.URL.String()}
	before := t.answers.get(key)
	if before != nil {
		r = r.Clone(r.Context())
		r.Header.Set("If-None-Match", before.etag)
	}
	resp, err := t.next.RoundTrip(r)
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode == http.StatusNotModified && before != nil:
		return before.again(resp), nil
	case resp.StatusCode != http.StatusOK || resp.Header.Get("ETag") == "":
		return resp, nil
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	if len(body) <= maxKeptOne {
		t.answers.put(&kept{key: key, etag: resp.Header.Get("ETag"), header: resp.Header.Clone(), body: body})
	}
	return resp, nil
}

// again is the answer from before, with what the new one tells of limits.
func (k *kept) again(now *http.Response) *http.Response {
	now.Body.Close()
	header := k.header.Clone()
	for name, values := range now.Header {
		if name != "Content-Length" {
			header[name] = values
		}
	}
	out := *now
	out.StatusCode, out.Status = http.StatusOK, "200 OK"
	out.Header, out.Body, out.ContentLength = header, io.NopCloser(bytes.NewReader(k.body)), int64(len(k.body))
	return &out
}
