package testenv

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// superviseDocker runs a daemon for as long as its own standard input is open,
// then stops it, which ends the containerd below it, and removes its folder. A
// line of its input names a signal by which the daemon is ended, and started
// anew.
const superviseDocker = `dir=$1; shift
start() {
	rm -f "$dir/pid"
	dockerd --host "unix://$dir/s" --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/pid" \
		--bridge none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false "$@" >>"$dir/log" 2>&1 &
	server=$!
}
start "$@"
while read -r signal; do
	kill "-$signal" $server
	wait $server
	start "$@"
done
kill -TERM $server
wait $server
rm -rf "$dir"`

// Docker starts a real docker daemon, which requires "root" and "dockerd", and
// returns the path of its socket. It has a folder of its own, no network, and
// listens on the socket alone. It ends with the test, however that ends.
func Docker(t testing.TB) (socket string) {
	t.Helper()
	return StartDocker(t).Socket
}

// DockerDaemon is a daemon of a test's own.
type DockerDaemon struct {
	Socket string

	dir     string
	control *os.File
}

// StartDocker is Docker for tests that do more to a daemon than to use it.
func StartDocker(t testing.TB, flags ...string) *DockerDaemon {
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
	cmd := exec.Command("/bin/sh", append([]string{"-c", superviseDocker, "sh", dir}, flags...)...)
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
	d := &DockerDaemon{Socket: filepath.Join(dir, "s"), dir: dir, control: ours}
	d.Await(t)
	return d
}

// Restart ends the daemon by a signal, "TERM" or "KILL", and starts it anew. It
// does not wait for that: Await does.
func (d *DockerDaemon) Restart(t testing.TB, signal string) {
	t.Helper()
	if _, err := fmt.Fprintln(d.control, signal); err != nil {
		t.Fatalf("restart the docker daemon: %v", err)
	}
}

// Await returns once the daemon answers.
func (d *DockerDaemon) Await(t testing.TB) {
	t.Helper()
	if err := pingDocker(context.Background(), d.Socket); err != nil {
		log, _ := os.ReadFile(filepath.Join(d.dir, "log"))
		t.Fatalf("the docker daemon does not answer: %v\n%s", err, log[max(0, len(log)-4<<10):])
	}
}

// hostPrograms are those of the machine that DockerImage has.
const hostPrograms = `sh cat chmod chown cp cut dd df echo env false grep head hostname id kill ls mkdir mv pgrep ps rm seq
	setsid sleep sort stat tail tee touch tr true uname wc`

// packPrograms writes a root file system of the machine's own programs, with the
// libraries that they need, to standard output.
const packPrograms = `set -e
root=$1; shift
mkdir -p $root/usr/bin $root/usr/sbin $root/etc $root/tmp $root/root $root/proc $root/sys $root/dev $root/run $root/var/tmp
for dir in bin sbin; do ln -s usr/$dir $root/$dir; done
for program; do
	file=/usr/bin/$program
	[ -x $file ] || file=/bin/$program
	cp -L $file $root/usr/bin/$program
	ldd $file | grep -o '/[^ ]*' | while read -r library; do
		mkdir -p $root$(dirname $library)
		cp -nL $library $root$library
	done
done
echo root:x:0:0:root:/root:/bin/sh > $root/etc/passwd
echo root:x:0: > $root/etc/group
tar -C $root -c .`

// DockerImage gives a daemon a small image of that name and tag, made of the
// machine's own shell and tools: no registry is needed. Changes are instructions
// of a Dockerfile.
func DockerImage(t testing.TB, socket, name, tag string, changes ...string) {
	t.Helper()
	cmd := exec.Command("/bin/sh", append([]string{"-c", packPrograms, "sh", t.TempDir()}, strings.Fields(hostPrograms)...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	root, err := cmd.Output()
	if err != nil {
		t.Fatalf("make an image: %v\n%s", err, &stderr)
	}
	query := url.Values{"fromSrc": {"-"}, "repo": {name}, "tag": {tag}, "changes": changes}
	r, err := http.NewRequestWithContext(context.Background(), http.MethodPost, "http://docker/images/create?"+query.Encode(), bytes.NewReader(root))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := DockerClient(socket).Do(r)
	if err != nil {
		t.Fatalf("import an image: %v", err)
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK || bytes.Contains(said, []byte("errorDetail")) {
		t.Fatalf("import an image: %s, %v: %s", answer.Status, err, said)
	}
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
