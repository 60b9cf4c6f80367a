package guest

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// daemonEnv has this program be a daemon: it lets a client in, after a while, and
// ends.
const daemonEnv = "NIMBUS_TEST_DAEMON"

// TestDaemonProcess is not a test: it's the daemon of TestDockerServe.
func TestDaemonProcess(*testing.T) {
	how := os.Getenv(daemonEnv)
	if how == "" {
		return
	}
	if how == "serve" {
		l, err := net.FileListener(os.NewFile(3, "socket"))
		if err != nil {
			panic(err)
		}
		c, err := l.Accept()
		if err != nil {
			panic(err)
		}
		time.Sleep(100 * time.Millisecond) // a daemon lives on while it serves
		fmt.Fprint(c, "served")
		c.Close()
	}
	if how == "killed" {
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	}
	if how == "hang" {
		time.Sleep(time.Hour)
	}
	os.Exit(3)
}

// daemons are those of a machine that is none: each begins as its list says, the
// last word again and again.
func daemons(t *testing.T, p patience, how ...string) (d *docker, call func() string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "g")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	socket, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	d = &docker{tree: &namespace{}, events: newEvents(), socket: socket, waits: p}
	begun := 0
	d.begin = func() (*os.Process, error) {
		word := how[min(begun, len(how)-1)]
		begun++
		return os.StartProcess("/proc/self/exe", []string{"daemon", "-test.run=^TestDaemonProcess$"}, &os.ProcAttr{
			Env: append(os.Environ(), daemonEnv+"="+word), Files: []*os.File{nil, nil, nil, socket}, Sys: &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL},
		})
	}
	call = func() string {
		c, err := net.Dial("unix", path)
		if err != nil {
			return err.Error()
		}
		defer c.Close()
		fmt.Fprint(c, "HEAD /_ping HTTP/1.1\r\n\r\n")
		said, err := io.ReadAll(c)
		if err != nil && len(said) == 0 {
			return err.Error()
		}
		return string(said)
	}
	over := make(chan struct{})
	go func() { defer close(over); d.serve() }()
	t.Cleanup(func() {
		d.tree.ending.Store(true)
		if c, err := net.Dial("unix", path); err == nil {
			defer c.Close()
		}
		<-over
		socket.Close()
	})
	return d, call
}

// told is what the job's log has.
func (d *docker) told() string {
	d.events.mu.Lock()
	defer d.events.mu.Unlock()
	var b strings.Builder
	for _, e := range d.events.list {
		b.Write(e.GetOutput().GetData())
	}
	return b.String()
}

func quick() patience {
	return patience{look: 5 * time.Millisecond, slow: time.Hour, start: time.Hour, pause: time.Millisecond, rest: 500 * time.Millisecond}
}

// TestDockerServe: daemons that end before they have let anybody in are given up
// after some, however they end; who waits is told why; and after a rest others are
// tried.
func TestDockerServe(t *testing.T) {
	t.Parallel()
	for how, why := range map[string]string{"fail": "has ended with 3", "killed": "was ended by a signal: killed"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			d, call := daemons(t, quick(), how, how, how, how, how, "serve")
			if said := call(); !strings.HasPrefix(said, "HTTP/1.1 503 ") || !strings.Contains(said, why) {
				t.Errorf("who waited got %q", said)
			}
			if log := d.told(); strings.Count(log, why) != dockerTries || !strings.Contains(log, "is not started again for 500ms") {
				t.Errorf("the log has %s", log)
			}
			for {
				if said := call(); said == "served" {
					break
				} else if !strings.Contains(said, why) {
					t.Fatalf("meanwhile: %q", said)
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
}

// TestDockerServed: a daemon that has let a client in had begun well, however short
// it lives, and its end is told.
func TestDockerServed(t *testing.T) {
	t.Parallel()
	d, call := daemons(t, quick(), "serve")
	for range 2 * dockerTries {
		if said := call(); said != "served" {
			t.Fatalf("%q; the log has %s", said, d.told())
		}
	}
	if log := d.told(); strings.Contains(log, "not started again") || !strings.Contains(log, "has ended with 3") {
		t.Errorf("the log has %s", log)
	}
}

// TestDockerSlow: of one that takes long the job hears, and one that never answers
// is ended.
func TestDockerSlow(t *testing.T) {
	t.Parallel()
	p := quick()
	p.slow, p.start = 5*time.Millisecond, time.Second // far enough apart that the one comes before the other
	d, call := daemons(t, p, "hang")
	if said := call(); !strings.HasPrefix(said, "HTTP/1.1 503 ") {
		t.Errorf("who waited got %q", said)
	}
	if log := d.told(); strings.Count(log, "the docker daemon is starting") != dockerTries || strings.Count(log, "has not answered for 1s") != dockerTries {
		t.Errorf("the log has %s", log)
	}
}

// TestNoNames: containers ask nobody for names where their machine has nobody to
// ask, unless a step has named who.
func TestNoNames(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for resolv, c := range map[string]struct {
		settings string
		none     bool
	}{
		"":                        {`{"storage-driver": "overlay2"}`, true},
		"search x\n":              {"", true},
		"nameserver 172.16.0.1\n": {"", false},
		"\n":                      {`{"dns": ["10.0.0.1"]}`, false},
	} {
		for name, text := range map[string]string{"resolv": resolv, "settings": c.settings} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if args := noNames(filepath.Join(dir, "resolv"), filepath.Join(dir, "settings")); (len(args) > 0) != c.none {
			t.Errorf("%q, %q: %v", resolv, c.settings, args)
		}
	}
}
