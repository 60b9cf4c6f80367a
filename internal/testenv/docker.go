package testenv

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// superviseDocker runs a daemon for as long as its own standard input is open,
// then stops it, which ends the containerd below it, and removes its folder.
const superviseDocker = `dockerd --host "unix://$1/s" --data-root "$1/data" --exec-root "$1/exec" --pidfile "$1/pid" \
	--bridge none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false --storage-driver vfs >"$1/log" 2>&1 &
server=$!
read -r _
kill -TERM $server
wait $server
rm -rf "$1"`

// Docker starts a real docker daemon, which requires "root" and "dockerd", and
// returns the path of its socket. It has a folder of its own, no network, and
// listens on the socket alone. It ends with the test, however that ends.
func Docker(t testing.TB) (socket string) {
	t.Helper()
	Require(t, "root", "dockerd")
	// Not t.TempDir: the paths of its sockets have room for 107 bytes.
	dir, err := os.MkdirTemp("", "nimbus-d-")
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs, err := pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", superviseDocker, "sh", dir)
	cmd.Stdin, cmd.Dir = theirs, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // an interrupt of the tests leaves it alive to clean up
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		ours.Close()
		t.Fatalf("start the docker daemon: %v", err)
	}
	t.Cleanup(func() {
		ours.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("stop the docker daemon: %v", err)
		}
	})
	socket = filepath.Join(dir, "s")
	if err := pingDocker(t.Context(), socket); err != nil {
		log, _ := os.ReadFile(filepath.Join(dir, "log"))
		t.Fatalf("the docker daemon does not answer: %v\n%s", err, log[max(0, len(log)-4<<10):])
	}
	return socket
}

// pingDocker waits until the daemon serves.
func pingDocker(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	client := DockerClient(socket)
	for {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/_ping", nil)
		if err != nil {
			return err
		}
		answer, err := client.Do(r)
		if err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return nil
			}
			err = fmt.Errorf("it answers %s", answer.Status)
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

// DockerClient speaks HTTP to a daemon's socket.
func DockerClient(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
}
