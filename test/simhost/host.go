// Package simhost is hosts without sandboxes, for tests and benches: thousands
// fit into one process.
//
// A Host speaks the protocol of an agent, over a connection of its own, and
// leaves to its owner what becomes of a job. A Machine is a Host that works by
// itself, with an agent that can be killed, sandboxes that live on without it
// until their shims' deadline, and records of what really ran when.
package simhost

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/api/gen/nimbus/v1/nimbusv1connect"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// Host is one simulated host. Its methods may be called concurrently.
type Host struct {
	ID  string
	API nimbusv1connect.AgentServiceClient

	transport *http.Transport
	slots     int

	mu    sync.Mutex
	held  map[string]*nimbusv1.Lease // by attempt id
	conns map[net.Conn]struct{}
}

// Config is how a host joins.
type Config struct {
	Server    string
	JoinToken string
	Name      string
	Slots     int // jobs of one CPU and 1 GiB that it can hold
}

// Join makes a host with a connection of its own.
func Join(ctx context.Context, cfg Config) (*Host, error) {
	h := &Host{slots: cfg.Slots, held: map[string]*nimbusv1.Lease{}, conns: map[net.Conn]struct{}{}}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	h.transport = &http.Transport{
		Protocols:   &protocols,
		DialContext: h.dial,
		HTTP2:       &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second}, // as the agent's
	}
	client := &http.Client{Transport: h.transport}
	joined, err := nimbusv1connect.NewAgentServiceClient(client, cfg.Server).Join(ctx, connect.NewRequest(&nimbusv1.JoinRequest{
		JoinToken: cfg.JoinToken, Name: cfg.Name, Version: version, Inventory: h.inventory(),
	}))
	if err != nil {
		return nil, fmt.Errorf("join as %s: %w", cfg.Name, err)
	}
	token := joined.Msg.GetHostToken()
	h.ID = joined.Msg.GetHostId()
	h.API = nimbusv1connect.NewAgentServiceClient(client, cfg.Server,
		connect.WithInterceptors(wire.Caller{Token: func() string { return token }}))
	return h, nil
}

const version = "simulated"

func (h *Host) inventory() *nimbusv1.Inventory {
	return &nimbusv1.Inventory{Arch: "amd64", Cpus: int32(h.slots), MemoryMib: int32(h.slots) << 10,
		Executors: []*nimbusv1.ExecutorStatus{{Name: "microvm", Available: true}}}
}

// dial remembers the connection, so that Cut can end it.
func (h *Host) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	own := &ownConn{Conn: c, host: h}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conns[own] = struct{}{}
	return own, nil
}

type ownConn struct {
	net.Conn
	host *Host
}

// Close implements net.Conn.
func (c *ownConn) Close() error {
	c.host.mu.Lock()
	delete(c.host.conns, c)
	c.host.mu.Unlock()
	return c.Conn.Close()
}

// Cut ends the host's connections without a word, as a process does that is
// killed. The next call makes a new one.
func (h *Host) Cut() {
	h.mu.Lock()
	conns := make([]net.Conn, 0, len(h.conns))
	for c := range h.conns {
		conns = append(conns, c)
	}
	h.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
}

// Speaks tells whether an address is that of one of the host's connections.
func (h *Host) Speaks(from net.Addr) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.conns {
		if c.LocalAddr().String() == from.String() {
			return true
		}
	}
	return false
}

// Close ends the host's connections.
func (h *Host) Close() {
	h.transport.CloseIdleConnections()
	h.Cut()
}

// Poll asks for work for what is free, and waits for it up to wait.
func (h *Host) Poll(ctx context.Context, wait time.Duration) ([]*nimbusv1.Offer, error) {
	answer, err := h.poll(ctx, wait)
	return answer.GetOffers(), err
}

func (h *Host) poll(ctx context.Context, wait time.Duration) (*nimbusv1.PollResponse, error) {
	h.mu.Lock()
	free := h.slots - len(h.held)
	h.mu.Unlock()
	answer, err := h.API.Poll(ctx, connect.NewRequest(&nimbusv1.PollRequest{
		FreeCpus: int32(free), FreeMemoryMib: int32(free) << 10, FreeSandboxes: int32(free), Wait: durationpb.New(wait),
	}))
	if err != nil {
		return nil, err
	}
	return answer.Msg, nil
}

// Hold counts a job as held before it is accepted, so that the next poll asks
// for less; Drop gives its place back.
func (h *Host) Hold(l *nimbusv1.Lease) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held[l.GetAttemptId()] = l
}

// Drop gives the place of a job back.
func (h *Host) Drop(l *nimbusv1.Lease) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.held, l.GetAttemptId())
}

// Accept takes a job.
func (h *Host) Accept(ctx context.Context, l *nimbusv1.Lease) (*nimbusv1.Assignment, error) {
	answer, err := h.API.Accept(ctx, connect.NewRequest(&nimbusv1.AcceptRequest{Lease: l}))
	if err != nil {
		return nil, err
	}
	return answer.Msg.GetAssignment(), nil
}

// Finish tells that a job's process has ended well.
func (h *Host) Finish(ctx context.Context, l *nimbusv1.Lease) error {
	_, err := h.API.FinishAttempt(ctx, connect.NewRequest(&nimbusv1.FinishAttemptRequest{Lease: l,
		Outcome: &nimbusv1.Outcome{Result: nimbusv1.JobResult_JOB_RESULT_SUCCESS}}))
	return err
}

// Heartbeat renews what the host holds.
func (h *Host) Heartbeat(ctx context.Context) ([]*nimbusv1.LeaseStatus, error) {
	h.mu.Lock()
	leases := make([]*nimbusv1.Lease, 0, len(h.held))
	for _, l := range h.held {
		leases = append(leases, l)
	}
	h.mu.Unlock()
	answer, err := h.API.Heartbeat(ctx, connect.NewRequest(&nimbusv1.HeartbeatRequest{Leases: leases}))
	if err != nil {
		return nil, err
	}
	return answer.Msg.GetLeases(), nil
}
