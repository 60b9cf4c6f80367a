package faultproxy_test

import (
	"bufio"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/testenv"
	"github.com/nimbus-ci/nimbus/test/faultproxy"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// server is a backend that tells which lines it got, and answers each by it.
type server struct {
	net.Listener
	lines chan string
	conns sync.WaitGroup
}

func newServer(t *testing.T) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Listener: l, lines: make(chan string, 16)}
	s.conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.conns.Go(func() { s.echo(c) })
		}
	})
	t.Cleanup(func() { l.Close(); s.conns.Wait() })
	return s
}

func (s *server) echo(c net.Conn) {
	defer c.Close()
	for lines := bufio.NewScanner(c); lines.Scan(); {
		s.lines <- lines.Text()
		if _, err := io.WriteString(c, lines.Text()+"\n"); err != nil {
			continue // the client is cut off; what it sent is still read
		}
	}
}

func (s *server) backend() faultproxy.Backend {
	return faultproxy.Backend{Network: "tcp", Address: s.Addr().String()}
}

func listen(t *testing.T, b ...faultproxy.Backend) *faultproxy.Proxy {
	t.Helper()
	p, err := faultproxy.Listen(b...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func dial(t *testing.T, p *faultproxy.Proxy) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

func say(t *testing.T, c net.Conn, line string) {
	t.Helper()
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		t.Fatal(err)
	}
}

func hear(t *testing.T, c net.Conn, want string) {
	t.Helper()
	got, err := bufio.NewReader(c).ReadString('\n')
	if err != nil || got != want+"\n" {
		t.Fatalf("heard %q, %v, want %q", got, err, want)
	}
}

func TestPassesOverDeadBackends(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	p := listen(t, faultproxy.Backend{Network: "tcp", Address: "127.0.0.1:1"}, s.backend())
	for range 3 {
		c := dial(t, p)
		say(t, c, "hello")
		hear(t, c, "hello")
	}
}

func TestCutAndRefuse(t *testing.T) {
	t.Parallel()
	p := listen(t, newServer(t).backend())
	c := dial(t, p)
	say(t, c, "hello")
	hear(t, c, "hello")
	p.Refuse(true)
	for _, c := range []net.Conn{c, dial(t, p)} {
		if n, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("%d bytes come through", n)
		}
	}
	p.Refuse(false)
	c = dial(t, p)
	say(t, c, "again")
	hear(t, c, "again")
}

func TestHoldKeepsWhatIsSent(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	p := listen(t, s.backend())
	c := dial(t, p)
	say(t, c, "before")
	hear(t, c, "before")
	<-s.lines
	p.Hold()
	say(t, c, "held")
	select {
	case <-time.After(50 * time.Millisecond): // nothing signals what does not happen
	case <-s.lines:
		t.Error("what is held has arrived")
	}
	p.Release()
	hear(t, c, "held")
}

func TestReorderBringsTheOldAfterTheNew(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	p := listen(t, s.backend())
	old := dial(t, p)
	say(t, old, "before")
	hear(t, old, "before")
	<-s.lines
	detached := p.Detach()
	say(t, old, "old")
	detached.Cut()
	if _, err := old.Read(make([]byte, 1)); err == nil {
		t.Error("the old connection is not cut")
	}
	fresh := dial(t, p)
	say(t, fresh, "new")
	hear(t, fresh, "new")
	detached.Arrive()
	if got := []string{<-s.lines, <-s.lines}; got[0] != "new" || got[1] != "old" {
		t.Errorf("arrived: %q", got)
	}
}

func TestWhatStraysSurvivesCuts(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	p := listen(t, s.backend())
	old, other := dial(t, p), dial(t, p)
	for _, c := range []net.Conn{old, other} {
		say(t, c, "before")
		hear(t, c, "before")
		<-s.lines
	}
	one := p.DetachSome(func(client net.Addr) bool { return client.String() == old.LocalAddr().String() })
	say(t, old, "old")
	say(t, other, "other")
	hear(t, other, "other") // it is not detached
	<-s.lines
	one.Cut()
	if _, err := old.Read(make([]byte, 1)); err == nil {
		t.Error("the old connection is not cut")
	}
	p.Cut()
	one.Arrive()
	if got := <-s.lines; got != "old" {
		t.Errorf("arrived: %q", got)
	}
}
