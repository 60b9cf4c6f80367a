package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/api/gen/nimbus/v1/nimbusv1connect"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/tlsfile"
	"github.com/nimbus-ci/nimbus/internal/tlsfile/tlstest"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// startTLS starts a server with a certificate, and returns its administrator's
// token.
func startTLS(t *testing.T, encryption *tls.Config) (url, admin string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s, err := Open(t.Context(), Config{Data: t.TempDir(), Listener: l, TLS: encryption, Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	ctx, stop := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- s.Run(ctx, func() { close(ready) }) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	select {
	case <-ready:
	case err := <-ended:
		ended <- err
		t.Fatal("the server ended")
	}
	return s.URL(), s.AdminToken()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// transport makes HTTP requests with a configuration of its own, over HTTP/2
// where the server has it.
func transport(c *tls.Config) *http.Transport {
	return &http.Transport{TLSClientConfig: c, ForceAttemptHTTP2: true}
}

// TestCallsAndStreamsOverTLS: over a real chain, while the certificate is
// replaced. What is connected goes on, what connects sees the new one.
func TestCallsAndStreamsOverTLS(t *testing.T) {
	t.Parallel()
	ca, files := tlstest.NewCA(t), tlstest.NewFiles(t)
	ca.Issue(t, files, "first")
	encryption, err := tlsfile.Server(files.Cert, files.Key, "")
	must(t, err)
	url, admin := startTLS(t, encryption)
	trust, err := tlsfile.Client(ca.RootFile, "", "")
	must(t, err)
	c, err := client.New(client.Config{Server: url, Token: admin, TLS: trust})
	must(t, err)
	defer c.Close()

	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/api/v1/jobs/stream", nil)
	must(t, err)
	r.Header.Set("Authorization", "Bearer "+admin)
	streaming := transport(trust)
	defer streaming.CloseIdleConnections()
	stream, err := streaming.RoundTrip(r)
	must(t, err)
	defer stream.Body.Close()
	if stream.StatusCode != http.StatusOK || stream.ProtoMajor != 2 || stream.TLS.PeerCertificates[0].Subject.CommonName != "first" {
		t.Fatalf("%s over %s", stream.Status, stream.Proto)
	}

	ca.Issue(t, files, "second")
	deadline := time.Now().Add(time.Minute)
	for served := ""; served != "second"; {
		conn, err := (&tls.Dialer{Config: trust}).DialContext(t.Context(), "tcp", strings.TrimPrefix(url, "https://"))
		must(t, err)
		served = conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName
		conn.Close()
		if time.Now().After(deadline) {
			t.Fatalf("%s is served", served)
		}
		time.Sleep(100 * time.Millisecond) // between two looks
	}
	job, err := c.Submit(t.Context(), client.Submission{Spec: nimbus.Spec{Command: []string{"true"}}})
	must(t, err)
	lines := bufio.NewScanner(stream.Body)
	for lines.Scan() && !strings.Contains(lines.Text(), job.ID) {
	}
	if !strings.Contains(lines.Text(), job.ID) {
		t.Errorf("the stream ended: %v", lines.Err())
	}
}

// TestWhoIsNotSpokenTo: callers with an old TLS, and servers that the client
// does not trust.
func TestWhoIsNotSpokenTo(t *testing.T) {
	t.Parallel()
	ca, files := tlstest.NewCA(t), tlstest.NewFiles(t)
	ca.Issue(t, files, "server")
	encryption, err := tlsfile.Server(files.Cert, files.Key, "")
	must(t, err)
	url, admin := startTLS(t, encryption)
	trust, err := tlsfile.Client(ca.RootFile, "", "")
	must(t, err)
	old := trust.Clone()
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	stranger, err := tlsfile.Client(tlstest.NewCA(t).RootFile, "", "")
	must(t, err)
	for what, c := range map[string]*tls.Config{"old TLS": old, "another CA": stranger, "the system's CAs": nil} {
		c, err := client.New(client.Config{Server: url, Token: admin, TLS: c})
		must(t, err)
		_, err = c.Hosts(t.Context())
		if err == nil {
			t.Errorf("%s: it is spoken to", what)
		}
		if strings.Contains(what, "CA") && !strings.Contains(nimbus.ErrorHint(err), "--ca-file") {
			t.Errorf("%s: %v, hint %q", what, err, nimbus.ErrorHint(err))
		}
		c.Close()
	}
}

// TestHostsWithCertificates: where hosts must have one, it is asked for before
// their join token is looked at; people need none.
func TestHostsWithCertificates(t *testing.T) {
	t.Parallel()
	ca, files, mine, foreign := tlstest.NewCA(t), tlstest.NewFiles(t), tlstest.NewFiles(t), tlstest.NewFiles(t)
	ca.Issue(t, files, "server")
	hosts := tlstest.NewCA(t)
	hosts.Issue(t, mine, "host")
	tlstest.NewCA(t).Issue(t, foreign, "host")
	encryption, err := tlsfile.Server(files.Cert, files.Key, hosts.RootFile)
	must(t, err)
	url, admin := startTLS(t, encryption)
	join := func(cert, key string) error {
		trust, err := tlsfile.Client(ca.RootFile, cert, key)
		must(t, err)
		tr := transport(trust)
		defer tr.CloseIdleConnections()
		agent := nimbusv1connect.NewAgentServiceClient(&http.Client{Transport: tr}, url, connect.WithInterceptors(wire.Caller{Token: func() string { return "" }}))
		_, err = agent.Join(t.Context(), connect.NewRequest(&nimbusv1.JoinRequest{JoinToken: "x", Name: "h"}))
		return err
	}
	if err := join("", ""); nimbus.ErrorCode(err) != nimbus.CodeForbidden || !strings.Contains(nimbus.ErrorHint(err), "--client-cert") {
		t.Errorf("without a certificate: %v, hint %q", err, nimbus.ErrorHint(err))
	}
	if err := join(mine.Cert, mine.Key); nimbus.ErrorCode(err) != nimbus.CodeUnauthenticated { // of the join token
		t.Errorf("with a certificate: %v", err)
	}
	if err := join(foreign.Cert, foreign.Key); err == nil || nimbus.ErrorCode(err) == nimbus.CodeUnauthenticated {
		t.Errorf("with another CA's certificate: %v", err)
	}
	trust, err := tlsfile.Client(ca.RootFile, "", "")
	must(t, err)
	c, err := client.New(client.Config{Server: url, Token: admin, TLS: trust})
	must(t, err)
	defer c.Close()
	if _, err := c.Hosts(t.Context()); err != nil {
		t.Errorf("a person without a certificate: %v", err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/api/v1/workspaces/x", nil)
	must(t, err)
	tr := transport(trust)
	defer tr.CloseIdleConnections()
	answer, err := tr.RoundTrip(r)
	must(t, err)
	defer answer.Body.Close()
	if raw, err := io.ReadAll(answer.Body); answer.StatusCode != http.StatusForbidden || !strings.Contains(string(raw), "certificate") {
		t.Errorf("a workspace: %s, %s, %v", answer.Status, raw, err)
	}
}
