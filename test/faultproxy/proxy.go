// Package faultproxy is a plain TCP load balancer that can be told to fail: to
// cut connections, to refuse new ones, to delay what passes, to hold it back
// for a while, and to bring what an old connection had sent after what a newer
// one sends.
package faultproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"
)

// Backend is where connections go: a network of net.Dial and an address.
type Backend struct{ Network, Address string }

const (
	dialTimeout = time.Second
	chunkBytes  = 32 << 10
)

// Proxy forwards connections. Its methods may be called concurrently.
type Proxy struct {
	listener net.Listener
	backends []Backend
	loops    sync.WaitGroup

	mu      sync.Mutex
	turn    int
	pairs   map[*pair]struct{}
	delay   time.Duration // the most that a chunk waits
	refuse  bool
	held    chan struct{} // closed on release; nil while nothing is held
	closing bool
}

// Listen starts a proxy on a free port of this machine. It takes its backends
// in turn and passes over those that don't answer.
func Listen(backends ...Backend) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	p := &Proxy{listener: l, backends: backends, pairs: map[*pair]struct{}{}}
	p.loops.Go(p.acceptLoop)
	return p, nil
}

// Addr is where it listens, "127.0.0.1:PORT".
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Close ends the proxy and its connections.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closing = true
	p.mu.Unlock()
	p.listener.Close()
	p.Release()
	for _, c := range p.all() {
		c.close()
	}
	p.loops.Wait()
}

// Cut ends all connections. What was under way is lost, but for what strays
// about since its connection was cut before.
func (p *Proxy) Cut() {
	for _, c := range p.all() {
		if !c.strays() {
			c.close()
		}
	}
}

// Refuse ends all connections and each new one until it is told otherwise.
func (p *Proxy) Refuse(yes bool) {
	p.mu.Lock()
	p.refuse = yes
	p.mu.Unlock()
	if yes {
		p.Cut()
	}
}

// Delay has each chunk wait for up to most, each by itself, so that what was
// sent on one connection is overtaken by what is sent later on another.
func (p *Proxy) Delay(most time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = most
}

// Hold lets nothing pass until Release, and keeps connections open.
func (p *Proxy) Hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held == nil && !p.closing {
		p.held = make(chan struct{})
	}
}

// Release ends Hold.
func (p *Proxy) Release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held != nil {
		close(p.held)
		p.held = nil
	}
}

// Detached is connections whose clients' words are held back.
type Detached struct{ pairs []*pair }

// Detach holds back what the clients of now send.
func (p *Proxy) Detach() Detached {
	return p.DetachSome(func(net.Addr) bool { return true })
}

// DetachSome holds back what those of the clients send whose addresses are so.
func (p *Proxy) DetachSome(are func(net.Addr) bool) Detached {
	d := Detached{slices.DeleteFunc(p.all(), func(c *pair) bool { return !are(c.client.RemoteAddr()) })}
	for _, c := range d.pairs {
		c.detach(make(chan struct{}))
	}
	return d
}

// Cut tells the clients that they are cut off. What they had sent by then is
// still taken in.
func (d Detached) Cut() {
	for _, c := range d.pairs {
		c.lose()
	}
}

// Arrive brings what was held back to where it was sent.
func (d Detached) Arrive() {
	for _, c := range d.pairs {
		c.arrive()
	}
}

// Reorder detaches clients for a while and then cuts them off; what they had
// sent arrives late after that, when they may have sent more on new connections.
func (p *Proxy) Reorder(ctx context.Context, window, late time.Duration) {
	d := p.Detach()
	wait(ctx, window)
	d.Cut()
	wait(ctx, late)
	d.Arrive()
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (p *Proxy) all() []*pair {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]*pair, 0, len(p.pairs))
	for c := range p.pairs {
		out = append(out, c)
	}
	return out
}

func (p *Proxy) acceptLoop() {
	for {
		client, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		p.loops.Go(func() { p.serve(client) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	defer client.Close()
	backend := p.dial()
	if backend == nil {
		return
	}
	c := &pair{proxy: p, client: client, backend: backend}
	p.mu.Lock()
	if p.refuse || p.closing {
		p.mu.Unlock()
		backend.Close()
		return
	}
	p.pairs[c] = struct{}{}
	p.mu.Unlock()
	c.run()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.pairs, c)
}

// dial takes the next backend that answers, nil when none does.
func (p *Proxy) dial() net.Conn {
	for range p.backends {
		p.mu.Lock()
		b := p.backends[p.turn%len(p.backends)]
		p.turn++
		refuse := p.refuse
		p.mu.Unlock()
		if refuse {
			return nil
		}
		if c, err := net.DialTimeout(b.Network, b.Address, dialTimeout); err == nil {
			return c
		}
	}
	return nil
}

// admit waits as long as the proxy was told that a chunk waits.
func (p *Proxy) admit() {
	p.mu.Lock()
	held, delay := p.held, p.delay
	p.mu.Unlock()
	if held != nil {
		<-held // Close releases it
	}
	if delay > 0 {
		time.Sleep(rand.N(delay))
	}
}

// pair is a connection and what it goes on to.
type pair struct {
	proxy           *Proxy
	client, backend net.Conn

	mu       sync.Mutex
	detached chan struct{} // closed when what was held back may arrive; nil before
	arrived  bool
	lost     bool // its client was told so
}

// run forwards both ways until both have ended.
func (c *pair) run() {
	var down sync.WaitGroup
	down.Go(func() {
		c.forward(c.client, c.backend, func() {})
		if c.waits() == nil {
			c.client.Close()
			c.backend.Close()
		}
	})
	c.forward(c.backend, c.client, func() {
		if held := c.waits(); held != nil {
			<-held // Reorder and close end it
		}
	})
	c.close()
	down.Wait()
}

func (c *pair) forward(to io.Writer, from io.Reader, before func()) {
	chunk := make([]byte, chunkBytes)
	for {
		n, err := from.Read(chunk)
		if n > 0 {
			c.proxy.admit()
			before()
			if _, err := to.Write(chunk[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (c *pair) waits() chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.detached
}

func (c *pair) detach(until chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.detached == nil {
		c.detached = until
	}
}

// lose tells the client that it is cut off, and nobody else.
func (c *pair) lose() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost = true
	if tcp, ok := c.client.(*net.TCPConn); ok {
		_ = tcp.CloseWrite() // it may be gone by itself
	}
}

// strays tells whether what the client had sent is yet to arrive.
func (c *pair) strays() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lost && !c.arrived
}

// arrive lets what was held back go on.
func (c *pair) arrive() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.detached != nil && !c.arrived {
		c.arrived = true
		close(c.detached)
	}
}

func (c *pair) close() {
	c.client.Close()
	c.backend.Close()
	c.arrive()
}
