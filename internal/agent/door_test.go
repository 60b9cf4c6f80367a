package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nimbus-ci/nimbus"
)

// TestPlainHTTPIsForThisMachine: an agent for an address that others can listen
// in on is not made, so that no byte is sent.
func TestPlainHTTPIsForThisMachine(t *testing.T) {
	t.Parallel()
	for address, ok := range map[string]bool{
		"http://192.0.2.1": false, "http://nimbus.example.com:80": false, "http://127.0.0.1.example.com": false, "http://[2001:db8::1]": false,
		"http://127.0.0.1:8080": true, "http://[::1]:8080": true, "https://192.0.2.1": true,
	} {
		_, err := New(Config{Server: address, Data: t.TempDir(), CPUs: 1, MemoryMiB: 512})
		if ok != (err == nil) || !ok && (nimbus.ErrorCode(err) != nimbus.CodeInvalid || !strings.Contains(nimbus.ErrorHint(err), "https")) {
			t.Errorf("%s: %v, hint %q", address, err, nimbus.ErrorHint(err))
		}
	}
}

// TestRedirectsAreNotFollowed: they could lead a token into the clear.
func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	var plain, asked atomic.Int64
	inClear := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { plain.Add(1) }))
	defer inClear.Close()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	door := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, inClear.URL+r.URL.Path, http.StatusTemporaryRedirect)
		if asked.Add(1) == 3 {
			stop()
		}
	}))
	door.EnableHTTP2 = true
	door.StartTLS()
	defer door.Close()
	pool := x509.NewCertPool()
	pool.AddCert(door.Certificate())
	a, err := New(Config{Server: door.URL, Data: t.TempDir(), CPUs: 1, MemoryMiB: 512, JoinToken: "x", Name: "h",
		TLS: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Run(ctx, func() {}); err == nil {
		t.Error("it joined a redirect")
	}
	if plain.Load() != 0 || asked.Load() < 1 {
		t.Errorf("%d calls went into the clear, of %d", plain.Load(), asked.Load())
	}
}
