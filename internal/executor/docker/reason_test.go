package docker

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
)

// TestHungDaemonIsAway: a daemon that takes a call and never answers is away, as one
// that isn't there: a job waits for it, and loses no attempt.
func TestHungDaemonIsAway(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket) // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d, err := newDaemon("unix://"+socket, "x")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := d.list(ctx); nimbus.ErrorCode(err) != nimbus.CodeUnavailable || nimbus.ErrorHint(err) == "" {
		t.Errorf("%v", err)
	}
}

// TestVolumesOf: folders that every process needs are no volumes, which are empty.
func TestVolumesOf(t *testing.T) {
	t.Parallel()
	for folder, taken := range map[string]bool{
		"/": false, "/.nimbus/x": false, "/proc": false, "/proc/1": false, "/sys": false, "/sys/fs/": false, "/dev": false, "dev/shm": false,
		"/bin": false, "/etc/": false, "/usr/bin": false, "/usr/../lib": false,
		"/etc/nginx": true, "/usr/share/nginx": true, "/data": true, "/var": true, "/var/lib/postgresql/data": true, "/device": true, "/tmp": true,
	} {
		folders, err := volumesOf(map[string]struct{}{folder: {}})
		if taken != (err == nil && len(folders) == 1) || !taken && nimbus.ErrorCode(err) != nimbus.CodeInvalid {
			t.Errorf("%s: %v, %v", folder, folders, err)
		}
	}
}

// TestOfImage: what the daemon says of an image from which no container starts is
// told in our words, which have no path of the host.
func TestOfImage(t *testing.T) {
	t.Parallel()
	const mounting = `docker daemon: Error response from daemon: OCI runtime create failed: error mounting "/host/mounts/att_1.0" to rootfs at "/workspace": `
	for said, image := range map[string]bool{
		mounting + `"/host/overlay2/1/merged/proc/1" cannot be mounted because it is inside /proc: unknown`:    true,
		mounting + `SecureJoin /host/overlay2/1/merged/tmp/a/a/a/: too many levels of symbolic links: unknown`: true,
		mounting + `mount /host/mounts/att_1.0:/workspace, flags: 0x5000: not a directory: unknown`:            true,
		mounting + `mount /host/mounts/att_1.0:/workspace, flags: 0x5000: no space left on device: unknown`:    false,
		`docker daemon: Error response from daemon: failed to create shim task: ttrpc: closed: unknown`:        false,
	} {
		var fault *executor.ImageError
		err := ofImage(errors.New(said), "odd:1")
		if errors.As(err, &fault) != image || image && (strings.Contains(err.Error(), "/host") || !strings.Contains(err.Error(), "in the way at /workspace")) {
			t.Errorf("%s: %v", said, err)
		}
	}
}
