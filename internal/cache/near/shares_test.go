package near_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/cache/near"
)

// slow is a server that answers some requests when it is told to.
type slow struct {
	*httptest.Server

	holds   atomic.Int64
	release func()
}

func newSlow(t *testing.T) *slow {
	t.Helper()
	s, hold := &slow{}, make(chan struct{})
	s.release = sync.OnceFunc(func() { close(hold) })
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "slow") {
			s.holds.Add(1)
			defer s.holds.Add(-1)
			select {
			case <-hold:
			case <-r.Context().Done():
			}
		}
		fmt.Fprint(w, "content")
	}))
	t.Cleanup(s.Close)
	t.Cleanup(s.release)
	return s
}

// through is a client in a sandbox, whose relay brings it to a door.
func through(t *testing.T, d *near.Door, sandbox string) *http.Client {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() { d.Serve(sandbox, conn) })
		}
	})
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp4", l.Addr().String())
	}}
	t.Cleanup(func() {
		l.Close()
		transport.CloseIdleConnections()
		served.Wait()
	})
	return &http.Client{Transport: transport}
}

// run runs a door; it has ended before the sandboxes' relays do.
func run(t *testing.T, server string, patience time.Duration) *near.Door {
	t.Helper()
	d, err := near.Open(near.Config{Server: server, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	d.BePatient(patience)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return d
}

func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: in a minute it is not so", what)
		}
	}
}

// requester sends a caller's nth request.
type requester func(ctx context.Context, n int, path string) (*http.Response, error)

func asking(client *http.Client, url string, edit func(r *http.Request, n int)) requester {
	return func(ctx context.Context, n int, path string) (*http.Response, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url+path, nil)
		if err != nil {
			return nil, err
		}
		edit(r, n)
		return client.Do(r)
	}
}

// TestOneCallerHoldsUpItselfAlone has a caller make all the requests that it can, of
// which none ends: another one is answered, and it is refused what is beyond its
// share, whatever it says to be.
func TestOneCallerHoldsUpItselfAlone(t *testing.T) {
	t.Parallel()
	const many = 300
	bearer := func(token string) func(*http.Request, int) {
		return func(r *http.Request, _ int) { r.Header.Set("Authorization", "Bearer "+token) }
	}
	org := func(id string) func(*http.Request, int) {
		return func(r *http.Request, _ int) { r.URL.RawQuery = "org=" + id + "&sig=x" }
	}
	for name, of := range map[string]func(*near.Door) (hog, other requester){
		"sandboxes": func(d *near.Door) (hog, other requester) {
			return asking(through(t, d, "one"), "http://gateway", func(*http.Request, int) {}), asking(through(t, d, "two"), "http://gateway", func(*http.Request, int) {})
		},
		"a sandbox that says to be many": func(d *near.Door) (hog, other requester) {
			forge := func(r *http.Request, n int) {
				r.Header.Set("Authorization", fmt.Sprint("Bearer ", n))
				r.URL.RawQuery = fmt.Sprint("org=", n)
			}
			return asking(through(t, d, "one"), "http://gateway", forge), asking(through(t, d, "two"), "http://gateway", bearer("1"))
		},
		"tokens": func(d *near.Door) (hog, other requester) {
			return asking(new(http.Client), "http://"+d.Addr(), bearer("one")), asking(new(http.Client), "http://"+d.Addr(), bearer("two"))
		},
		"signed URLs": func(d *near.Door) (hog, other requester) {
			return asking(new(http.Client), "http://"+d.Addr(), org("one")), asking(new(http.Client), "http://"+d.Addr(), org("two"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := newSlow(t)
			d := run(t, server.URL, time.Hour)
			hog, other := of(d)
			ctx, cancel := context.WithCancel(t.Context())
			var all sync.WaitGroup
			var refused atomic.Int64
			defer all.Wait()
			defer cancel()
			for n := range many {
				all.Go(func() {
					answer, err := hog(ctx, n, "/_cache/entries/slow")
					if err != nil {
						return // it is over
					}
					defer answer.Body.Close()
					if answer.StatusCode == http.StatusServiceUnavailable && answer.Header.Get("Retry-After") != "" {
						refused.Add(1)
					}
				})
			}
			share := int64(near.MaxRequests/(near.SharePart+1) + 1)
			until(t, "all that it may", func() bool { return refused.Load() == many-share-near.MaxWaiting && server.holds.Load() == share })
			if d.Waiting() != near.MaxWaiting {
				t.Errorf("%d wait", d.Waiting())
			}
			soon, done := context.WithTimeout(t.Context(), time.Minute)
			defer done()
			answer, err := other(soon, 0, "/_cache/entries/1")
			if err != nil {
				t.Fatalf("another caller: %v", err)
			}
			defer answer.Body.Close()
			if said, err := io.ReadAll(answer.Body); err != nil || string(said) != "content" {
				t.Errorf("another caller: %d %q %v", answer.StatusCode, said, err)
			}
			cancel()
			all.Wait()
			until(t, "nothing is left", func() bool { busy, callers := d.Busy(); return busy == 0 && callers == 0 && d.Waiting() == 0 })
		})
	}
}

// TestWhoWaitsForRoom is let in as soon as there is some, and does not wait for ever.
func TestWhoWaitsForRoom(t *testing.T) {
	t.Parallel()
	server := newSlow(t)
	share := near.MaxRequests/(near.SharePart+1) + 1
	request := func(d *near.Door, path string, answers chan<- int) {
		answer, err := asking(new(http.Client), "http://"+d.Addr(), func(*http.Request, int) {})(t.Context(), 0, path)
		if err != nil {
			t.Error(err)
			answers <- 0
			return
		}
		answer.Body.Close()
		answers <- answer.StatusCode
	}
	impatient, patient := run(t, server.URL, time.Millisecond), run(t, server.URL, time.Hour)
	held, waited := make(chan int, 2*share), make(chan int, 1)
	for range share {
		go request(impatient, "/_cache/entries/slow", held)
		go request(patient, "/_cache/entries/slow", held)
	}
	until(t, "all that they may", func() bool { return server.holds.Load() == int64(2*share) })
	go request(patient, "/_cache/entries/1", waited)
	until(t, "one waits", func() bool { return patient.Waiting() == 1 })
	for path, want := range map[string]int{"/_cache/entries/1": http.StatusServiceUnavailable, "/cache/1": http.StatusTooManyRequests} {
		refused := make(chan int, 1)
		request(impatient, path, refused)
		if got := <-refused; got != want {
			t.Errorf("%s waits for too long: %d, want %d", path, got, want)
		}
	}
	server.release()
	if got := <-waited; got != http.StatusOK {
		t.Errorf("who waited: %d", got)
	}
	for range 2 * share {
		if got := <-held; got != http.StatusOK {
			t.Errorf("who was let in: %d", got)
		}
	}
}
