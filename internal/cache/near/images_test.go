package near_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/cache/near"
)

// TestDoorToImages: what the registry says of where its tokens are leads back to the
// door, which has no TLS; all else of its answers is its own, whether the door keeps
// copies or not.
func TestDoorToImages(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="https://%s/v2/token",service="nimbus",scope="https://%s/"`, r.Host, r.Host))
		w.Header().Set("Location", "/v2/acme/app/blobs/uploads/1")
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, r.Method, " ", r.URL.RequestURI())
	}))
	t.Cleanup(server.Close)
	trusts := &tls.Config{RootCAs: x509.NewCertPool()}
	trusts.RootCAs.AddCert(server.Certificate())
	for _, bytes := range []int64{0, 1 << 30} {
		d, err := near.Open(near.Config{Server: server.URL, TLS: trusts, Dir: t.TempDir(), Bytes: bytes, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- d.Run(ctx) }()
		for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodPatch, http.MethodPost} {
			const path = "/v2/acme/app/blobs/uploads/?digest=sha256:0a"
			r, err := http.NewRequestWithContext(t.Context(), method, "http://"+d.Addr()+path, strings.NewReader("content"))
			if err != nil {
				t.Fatal(err)
			}
			r.Host = "gateway:9180"
			answer, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := answer.Header.Get("WWW-Authenticate"), `Bearer realm="http://gateway:9180/v2/token",service="nimbus",scope="https://gateway:9180/"`; got != want || answer.StatusCode != http.StatusUnauthorized ||
				answer.Header.Get("Location") != "/v2/acme/app/blobs/uploads/1" {
				t.Errorf("%s is answered by %s, %v", method, answer.Status, answer.Header)
			}
			answer.Body.Close()
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	server.Close()
	url, _ := open(t, server.URL)
	if status, said := ask(t, http.MethodGet, url+"/v2/", "", nil); status != http.StatusServiceUnavailable || !strings.Contains(said, `"code":"UNAVAILABLE"`) {
		t.Errorf("without a server: %d %s", status, said)
	}
	for _, path := range []string{"/v2", "/v2/../healthz", "/v2/%2e%2e/healthz", "/v2//x", "/v3/"} {
		if status, said := ask(t, http.MethodGet, url+path, "", nil); status != http.StatusNotFound {
			t.Errorf("%s: %d %s", path, status, said)
		}
	}
}
