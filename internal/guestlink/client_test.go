package guestlink

import (
	"context"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"connectrpc.com/connect"

	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/api/gen/nimbus/v1/nimbusv1connect"
)

// quickGuest answers at once.
type quickGuest struct {
	nimbusv1connect.UnimplementedGuestServiceHandler
}

func (quickGuest) Prepare(context.Context, *connect.Request[nimbusv1.PrepareRequest]) (*connect.Response[nimbusv1.PrepareResponse], error) {
	return connect.NewResponse(&nimbusv1.PrepareResponse{}), nil
}

// TestCallsShareOneConnection makes calls one right after another and at one
// time, on many connections: none asks for a second one.
func TestCallsShareOneConnection(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "guest"))
	if err != nil {
		t.Fatal(err)
	}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	mux := http.NewServeMux()
	mux.Handle(nimbusv1connect.NewGuestServiceHandler(quickGuest{}))
	server := &http.Server{Handler: mux, Protocols: &protocols, ReadHeaderTimeout: time.Minute}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() { server.Close(); <-done })

	prepare := func(c *Client) error {
		_, err := c.Prepare(t.Context(), connect.NewRequest(&nimbusv1.PrepareRequest{}))
		return err
	}
	for range 100 {
		conn, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c := NewClient(conn, "")
		if err := prepare(c); err != nil {
			t.Fatal(err)
		}
		const together = 4
		ended := make(chan error, together)
		for range together {
			go func() { ended <- prepare(c) }()
		}
		for range together {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := prepare(c); err == nil {
			t.Fatal("a closed client was answered")
		}
	}
}

// TestACallEndsThoughTheGuestReadsNothing: not even our first words.
func TestACallEndsThoughTheGuestReadsNothing(t *testing.T) {
	t.Parallel()
	ours, theirs := net.Pipe()
	defer theirs.Close()
	c := NewClient(ours, "")
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Prepare(ctx, connect.NewRequest(&nimbusv1.PrepareRequest{})); err == nil {
		t.Error("there is an answer")
	}
}
