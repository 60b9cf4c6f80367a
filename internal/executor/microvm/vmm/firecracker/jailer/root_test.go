package jailer

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus/internal/testenv"
)

const testUID = 4242

// made is a jail's root, with a folder of files outside of it.
func made(t *testing.T) (r Root, outside string) {
	t.Helper()
	testenv.Require(t, "root")
	r = Jail{ID: "a", Base: filepath.Join(t.TempDir(), "jail"), Exec: "/x/firecracker", UID: testUID, GID: testUID}.Root()
	if !strings.HasSuffix(r.Path, "/jail/firecracker/a/root") {
		t.Errorf("got %s", r.Path)
	}
	if err := r.Make(); err != nil {
		t.Fatal(err)
	}
	return r, t.TempDir()
}

func write(t *testing.T, path, content string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func stat(t *testing.T, path string) (os.FileInfo, *syscall.Stat_t) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	s, _ := info.Sys().(*syscall.Stat_t)
	return info, s
}

func TestLayout(t *testing.T) {
	t.Parallel()
	r, outside := made(t)
	kernel := write(t, filepath.Join(outside, "vmlinux"), "kernel", 0o644)
	link := filepath.Join(outside, "link")
	if err := os.Symlink(kernel, link); err != nil {
		t.Fatal(err)
	}
	disk := write(t, filepath.Join(outside, "disk"), "disk", 0o600)
	if err := r.Share("kernel", link); err != nil {
		t.Fatal(err)
	}
	if err := r.Give("disk0", disk); err != nil {
		t.Fatal(err)
	}

	if info, s := stat(t, r.Path); info.Mode() != os.ModeDir|0o700 || s.Uid != testUID || s.Gid != testUID {
		t.Errorf("root: %s, user %d", info.Mode(), s.Uid)
	}
	shared, s := stat(t, filepath.Join(r.Path, "kernel"))
	if original, _ := stat(t, kernel); !os.SameFile(shared, original) || shared.Mode() != 0o644 || s.Uid != 0 {
		t.Errorf("kernel: %s, user %d; it must be the same file, and stay root's", shared.Mode(), s.Uid)
	}
	if given, s := stat(t, filepath.Join(r.Path, "disk0")); given.Mode() != 0o600 || s.Uid != testUID || s.Gid != testUID {
		t.Errorf("disk: %s, user %d", given.Mode(), s.Uid)
	}
	if found, err := Find(filepath.Join(filepath.Dir(r.Path), "../..")); err != nil || found != r {
		t.Errorf("found %+v, %v; made %+v", found, err, r)
	}
	if err := r.Make(); err == nil {
		t.Error("made over another one")
	}
	if err := r.Share("kernel", kernel); err == nil {
		t.Error("laid over another file")
	}
}

// TestCopyAcrossFileSystems: a jail on another file system gets copies.
func TestCopyAcrossFileSystems(t *testing.T) {
	t.Parallel()
	testenv.Require(t, "root")
	base := filepath.Join(t.TempDir(), "jail")
	if err := os.Mkdir(base, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("nimbus-test", base, "tmpfs", 0, "size=64m"); err != nil { // another file system
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(base, 0); err != nil {
			t.Error(err)
		}
	})
	r := Jail{ID: "a", Base: base, Exec: "/x/firecracker", UID: testUID, GID: testUID}.Root()
	if err := r.Make(); err != nil {
		t.Fatal(err)
	}
	src := write(t, filepath.Join(t.TempDir(), "sparse"), "head", 0o644)
	f, err := os.OpenFile(src, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("tail"), 8<<20); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := r.Share("memory", src); err != nil {
		t.Fatal(err)
	}
	want, _ := os.ReadFile(src)
	got, err := os.ReadFile(filepath.Join(r.Path, "memory"))
	info, s := stat(t, filepath.Join(r.Path, "memory"))
	if err != nil || string(got) != string(want) || s.Blocks > 64 || info.Mode() != 0o444 || s.Uid != 0 {
		t.Errorf("%d bytes in %d blocks, %s, %v", len(got), s.Blocks, info.Mode(), err)
	}
}

func TestShareRefuses(t *testing.T) {
	t.Parallel()
	r, outside := made(t)
	theirs := write(t, filepath.Join(outside, "theirs"), "x", 0o644)
	if err := os.Chown(theirs, testUID, testUID); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"secret":   write(t, filepath.Join(outside, "secret"), "x", 0o600),
		"writable": write(t, filepath.Join(outside, "writable"), "x", 0o666),
		"theirs":   theirs,
		"folder":   outside,
		"nothing":  filepath.Join(outside, "nothing"),
	} {
		if err := r.Share(name, path); err == nil {
			t.Errorf("%s is in the jail", name)
		}
		if _, err := os.Lstat(filepath.Join(r.Path, name)); err == nil {
			t.Errorf("%s was left in the jail", name)
		}
	}
}

// TestTake: only what is the jail's own, and what nobody can write to any more,
// comes out.
func TestTake(t *testing.T) {
	t.Parallel()
	r, outside := made(t)
	own := func(name string) string {
		path := write(t, filepath.Join(r.Path, name), "saved", 0o600)
		if err := os.Chown(path, testUID, testUID); err != nil {
			t.Fatal(err)
		}
		return path
	}
	own("state")
	to := filepath.Join(outside, "state")
	if err := r.Take("state", to); err != nil {
		t.Fatal(err)
	}
	if info, s := stat(t, to); info.Mode() != 0o444 || s.Uid != 0 {
		t.Errorf("%s, user %d", info.Mode(), s.Uid)
	}

	secret := write(t, filepath.Join(outside, "secret"), "secret", 0o600)
	if err := os.Symlink(secret, filepath.Join(r.Path, "symlink")); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(own("twice"), filepath.Join(r.Path, "hardlink")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(r.Path, "roots"), "x", 0o600)
	if err := unix.Mkfifo(filepath.Join(r.Path, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	held, err := os.OpenFile(own("held"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	mapped, err := os.OpenFile(own("mapped"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	page, err := unix.Mmap(int(mapped.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(page)
	mapped.Close()
	for _, name := range []string{"symlink", "twice", "roots", "fifo", "held", "mapped", "../../../../secret", "nothing"} {
		if err := r.Take(name, filepath.Join(outside, "taken")); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	if info, s := stat(t, secret); info.Mode() != 0o600 || s.Uid != 0 {
		t.Errorf("the secret is %s, user %d", info.Mode(), s.Uid)
	}
}

func TestDial(t *testing.T) {
	t.Parallel()
	r, outside := made(t)
	listener, err := net.Listen("unix", filepath.Join(outside, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			io.WriteString(conn, "hello")
			conn.Close()
		}
	}()
	// A hard link is the socket itself, which only root can put there.
	if err := os.Link(filepath.Join(outside, "s"), filepath.Join(r.Path, "inside")); err != nil {
		t.Fatal(err)
	}
	conn, err := r.Dial(t.Context(), "inside")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if said, err := io.ReadAll(conn); err != nil || string(said) != "hello" {
		t.Errorf("%q, %v", said, err)
	}
	if err := os.Symlink(filepath.Join(outside, "s"), filepath.Join(r.Path, "link")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(r.Path, "file"), "x", 0o600)
	for _, name := range []string{"link", "file", "nothing", "../root/link"} {
		if conn, err := r.Dial(context.Background(), name); err == nil {
			conn.Close()
			t.Errorf("dialled %s", name)
		}
	}
}
