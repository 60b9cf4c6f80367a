package testenv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// superviseDocker runs a daemon, and the containerd that it uses, for as long as
// its own standard input is open, then stops both and removes their folder. A line
// of its input names a signal by which the daemon is ended, and started anew.
const superviseDocker = `dir=$1; shift
cat >"$dir/containerd.toml" <<END
version = 2
root = "$dir/containerd"
state = "$dir/run"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "$dir/c"
END
containerd --config "$dir/containerd.toml" >"$dir/containerd.log" 2>&1 &
runtime=$!
start() {
	rm -f "$dir/pid"
	dockerd --containerd "$dir/c" --host "unix://$dir/s" --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/pid" \
		--bridge none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false "$@" >>"$dir/log" 2>&1 &
	server=$!
}
start "$@"
while read -r signal; do
	kill "-$signal" $server
	wait $server
	printf . >>"$dir/ends"
	start "$@"
done
kill -TERM $server
wait $server
kill -TERM $runtime
wait $runtime
# One that was killed leaves what it had mounted for itself. What runs containers may
# end after those that started it, and has its files there meanwhile.
clear() {
	grep -F " $dir/" /proc/mounts | cut -d ' ' -f 2 | sort -r | while read -r point; do umount -l "$point"; done
	rm -rf "$dir"
}
tries=0
until clear 2>/dev/null || [ $((tries += 1)) -ge 100 ]; do sleep 0.1; done
clear`

// Docker starts a real docker daemon, which requires "root" and "dockerd", and
// returns the path of its socket. It has a folder of its own, no network, and
// listens on the socket alone. It ends with the test, however that ends.
func Docker(t testing.TB) (socket string) {
	t.Helper()
	return DockerWith(t).Socket
}

// DockerWith is Docker with flags, for tests that do more to a daemon than to use
// it.
func DockerWith(t testing.TB, flags ...string) *DockerDaemon {
	t.Helper()
	Require(t, "root", "dockerd", "containerd")
	d, err := StartDocker(flags...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// DockerDaemon is a daemon of a test's or a bench's own.
type DockerDaemon struct {
	Socket string

	dir     string
	control *os.File
	cmd     *exec.Cmd
	ends    atomic.Int64 // that were asked for
}

// StartDocker starts a daemon for a program that is no test. It ends with the
// process at the latest.
func StartDocker(flags ...string) (*DockerDaemon, error) {
	// Not a test's folder: the paths of its sockets have room for 107 bytes.
	dir, err := os.MkdirTemp("", "nimbus-d-")
	if err != nil {
		return nil, fmt.Errorf("start the docker daemon: %w", err)
	}
	ours, theirs, err := pipe()
	if err != nil {
		return nil, fmt.Errorf("start the docker daemon: %w", err)
	}
	d := &DockerDaemon{Socket: filepath.Join(dir, "s"), dir: dir, control: ours}
	d.cmd = exec.Command("/bin/sh", append([]string{"-c", superviseDocker, "sh", dir}, flags...)...)
	d.cmd.Stdin, d.cmd.Dir = theirs, "/"
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // an interrupt of the tests leaves it alive to clean up
	err = d.cmd.Start()
	theirs.Close()
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("start the docker daemon: %w", err)
	}
	if err := d.Await(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// Close ends the daemon and removes what it kept.
func (d *DockerDaemon) Close() error {
	if err := errors.Join(d.control.Close(), d.cmd.Wait()); err != nil {
		return fmt.Errorf("stop the docker daemon: %w", err)
	}
	return nil
}

// Restart ends the daemon by a signal, "TERM" or "KILL", and starts it anew. It
// does not wait for that: Await does.
func (d *DockerDaemon) Restart(signal string) error {
	d.ends.Add(1)
	if _, err := fmt.Fprintln(d.control, signal); err != nil {
		return fmt.Errorf("restart the docker daemon: %w", err)
	}
	return nil
}

// Await returns once the daemon answers: the one that was started last, not one
// that is about to end.
func (d *DockerDaemon) Await() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	err := d.awaitEnds(ctx)
	if err == nil {
		err = pingDocker(ctx, d.Socket)
	}
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(d.dir, "log"))
		return fmt.Errorf("the docker daemon does not answer: %w\n%s", err, log[max(0, len(log)-4<<10):])
	}
	return nil
}

// awaitEnds waits until as many daemons have ended as were told to.
func (d *DockerDaemon) awaitEnds(ctx context.Context) error {
	for {
		info, err := os.Stat(filepath.Join(d.dir, "ends"))
		if d.ends.Load() == 0 || err == nil && info.Size() >= d.ends.Load() {
			return nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return errors.New("the one before does not end")
		}
	}
}

// hostPrograms are those of the machine that DockerImage has.
const hostPrograms = `sh cat chmod chown cp cut dd df echo env false grep head hostname id kill ls mkdir mv pgrep ps rm seq setsid
	sha256sum sleep sort stat tail tee touch tr true uname wc`

// packPrograms writes a root file system of the machine's own programs, with the
// libraries that they need, as a tar.
//
//nolint:dupword // they are the shell's words
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

// Image gives the daemon a small image of that name and tag, made of the
// machine's own shell and tools: no registry is needed. Changes are instructions
// of a Dockerfile.
func (d *DockerDaemon) Image(name, tag string, changes ...string) error {
	dir, err := os.MkdirTemp("", "nimbus-image-")
	if err != nil {
		return fmt.Errorf("make an image: %w", err)
	}
	defer os.RemoveAll(dir)
	cmd := exec.Command("/bin/sh", append([]string{"-c", packPrograms, "sh", dir}, strings.Fields(hostPrograms)...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	root, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("make an image: %w: %s", err, &stderr)
	}
	return d.Import(bytes.NewReader(root), name, tag, changes...)
}

// Import gives the daemon an image of a root file system, a tar.
func (d *DockerDaemon) Import(root io.Reader, name, tag string, changes ...string) error {
	query := url.Values{"fromSrc": {"-"}, "repo": {name}, "tag": {tag}, "changes": changes}
	r, err := http.NewRequestWithContext(context.Background(), http.MethodPost, "http://docker/images/create?"+query.Encode(), root)
	if err != nil {
		return fmt.Errorf("import an image: %w", err)
	}
	answer, err := DockerClient(d.Socket).Do(r)
	if err != nil {
		return fmt.Errorf("import an image: %w", err)
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(answer.Body)
	if err != nil {
		return fmt.Errorf("import an image: %w", err)
	}
	if answer.StatusCode != http.StatusOK || bytes.Contains(said, []byte("errorDetail")) {
		return fmt.Errorf("import an image: %s: %s", answer.Status, said)
	}
	return nil
}

// pingDocker waits until the daemon serves.
func pingDocker(ctx context.Context, socket string) error {
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
