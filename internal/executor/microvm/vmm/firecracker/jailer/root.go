package jailer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Root is the folder that becomes a monitor's "/". Files are laid into it
// before the monitor starts. From then on everything in it may have been put
// there by a guest that broke out of its machine: it is opened with care.
type Root struct {
	Path     string
	UID, GID int
}

// Make makes the folder, for the jail's user alone.
func (r Root) Make() error {
	if err := os.MkdirAll(filepath.Dir(r.Path), 0o711); err != nil {
		return fmt.Errorf("make jail: %w", err)
	}
	if err := os.Mkdir(r.Path, 0o700); err != nil {
		return fmt.Errorf("make jail: %w", err) // one that exists isn't ours
	}
	if err := os.Chown(r.Path, r.UID, r.GID); err != nil {
		return fmt.Errorf("make jail: %w", err)
	}
	return nil
}

// Share lays a file into the jail that others use too, and that the jail's user
// can only read. It is the same file where both are on one file system, a copy
// otherwise.
func (r Root) Share(name, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("lay %s into jail: %w", name, err)
	}
	// Its owner and mode can't be changed for one jail: it is all the others' too.
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o004 == 0 || info.Mode().Perm()&0o002 != 0 {
		return fmt.Errorf("lay %s into jail: %s has mode %s; it must be a file that everybody can read and only its owner write",
			name, path, info.Mode())
	}
	if stat, ok := info.Sys().(statT); ok && int(stat.Uid) == r.UID {
		return fmt.Errorf("lay %s into jail: %s belongs to the jail's user, who could write to it", name, path)
	}
	return r.link(name, path, 0o444, false)
}

// Copy lays a copy of a file into the jail, that the jail's user can only read.
func (r Root) Copy(name, path string) error {
	if err := Copy(filepath.Join(r.Path, name), path, 0o444); err != nil {
		return fmt.Errorf("lay %s into jail: %w", name, err)
	}
	return nil
}

// Copy makes a file that appears whole or not at all.
func Copy(dst, src string, mode os.FileMode) error {
	draft := dst + ".new"
	if err := os.Remove(draft); err != nil && !errors.Is(err, os.ErrNotExist) { // of one that was cut off
		return err
	}
	err := copyFile(draft, src, mode)
	if err == nil {
		err = syncFile(draft)
	}
	if err == nil {
		err = os.Rename(draft, dst)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(draft))
	}
	return nil
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Give lays a file into the jail that becomes the jail's own.
func (r Root) Give(name, path string) error { return r.link(name, path, 0o600, true) }

// link makes a hard link, or a copy where the file system ends between the two.
func (r Root) link(name, path string, mode os.FileMode, own bool) error {
	target := filepath.Join(r.Path, name)
	// What the link leads to, not the symbolic link itself.
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return fmt.Errorf("lay %s into jail: %w", name, err)
	}
	err = os.Link(resolved, target)
	if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EMLINK) {
		err = copyFile(target, resolved, mode)
	}
	if err == nil && own {
		err = errors.Join(os.Chmod(target, mode), os.Lchown(target, r.UID, r.GID))
	}
	if err != nil {
		return fmt.Errorf("lay %s into jail: %w", name, err)
	}
	return nil
}

// copyFile copies without holes being written; the kernel shares the blocks
// where the file system can.
func copyFile(dst, src string, mode os.FileMode) (err error) {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) == nil {
		return nil
	}
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if err := out.Truncate(info.Size()); err != nil {
		return err
	}
	for at := int64(0); ; {
		start, err := in.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // holes alone from here on
		}
		if err != nil {
			return err
		}
		end, err := in.Seek(start, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(out, start), io.NewSectionReader(in, start, end-start)); err != nil {
			return err
		}
		at = end
	}
}

// open opens what has that name directly in the jail, and follows no link: the
// jail's user may have put one there that leads out.
func (r Root) open(name string, flags uint64) (*os.File, error) {
	root, err := os.Open(r.Path)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	fd, err := unix.Openat2(int(root.Fd()), name, &unix.OpenHow{
		Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Dial connects to a socket in the jail.
func (r Root) Dial(ctx context.Context, name string) (net.Conn, error) {
	f, err := r.open(name, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return nil, fmt.Errorf("dial into jail: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Mode().Type() != os.ModeSocket {
		return nil, fmt.Errorf("dial into jail: %s is no socket", name)
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", "/proc/self/fd/"+strconv.Itoa(int(f.Fd())))
	if err != nil {
		return nil, fmt.Errorf("dial into jail: %w", err)
	}
	return conn, nil
}

// Take moves a file that the monitor wrote out of the jail and makes it ours and
// read-only. It fails while anybody could still write to the file.
func (r Root) Take(name, path string) error {
	f, err := r.open(name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK)
	if err != nil {
		return fmt.Errorf("take %s out of jail: %w", name, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("take %s out of jail: %w", name, err)
	}
	stat, ok := info.Sys().(statT)
	if !ok || !info.Mode().IsRegular() || stat.Nlink != 1 || int(stat.Uid) != r.UID {
		return fmt.Errorf("take %s out of jail: it isn't a file of the jail's own", name)
	}
	if err := errors.Join(f.Chown(os.Geteuid(), os.Getegid()), f.Chmod(0o444), f.Sync()); err != nil {
		return fmt.Errorf("take %s out of jail: %w", name, err)
	}
	if err := noWriter(f); err != nil {
		return fmt.Errorf("take %s out of jail: %w", name, err)
	}
	if err := os.Rename(filepath.Join(r.Path, name), path); err != nil {
		return fmt.Errorf("take %s out of jail: %w", name, err)
	}
	moved, err := os.Lstat(path)
	if err != nil || !os.SameFile(info, moved) {
		return errors.Join(fmt.Errorf("take %s out of jail: it was replaced", name), os.Remove(path))
	}
	return nil
}

// noWriter fails when somebody has the file open, or mapped, for writing. The
// kernel tells by refusing a lease for readers.
func noWriter(f *os.File) error {
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_RDLCK); err != nil {
		return fmt.Errorf("somebody can still write to it: %w", err)
	}
	_, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
	return err
}

// Find returns the root of the only jail below base: what Jail.Root is, known
// from the folder alone.
func Find(base string) (Root, error) {
	at := base
	for range 2 { // program, id
		entries, err := os.ReadDir(at)
		if err != nil {
			return Root{}, fmt.Errorf("find jail: %w", err)
		}
		if len(entries) != 1 {
			return Root{}, fmt.Errorf("find jail: %s has %d entries instead of one", at, len(entries))
		}
		at = filepath.Join(at, entries[0].Name())
	}
	at = filepath.Join(at, "root")
	info, err := os.Lstat(at)
	if err != nil {
		return Root{}, fmt.Errorf("find jail: %w", err)
	}
	stat, ok := info.Sys().(statT)
	if !ok || !info.IsDir() {
		return Root{}, fmt.Errorf("find jail: %s is no folder", at)
	}
	return Root{Path: at, UID: int(stat.Uid), GID: int(stat.Gid)}, nil
}
