package snapshot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/plainfile"
)

// seal brings a file to the disk, forbids writing, and says what it is.
func seal(ctx context.Context, d disk, path string) (File, error) {
	if err := os.Chmod(path, 0o444); err != nil { //nolint:gosec // its folder is the agent's alone
		return File{}, fmt.Errorf("seal snapshot: %w", err)
	}
	if err := d.Sync(path); err != nil {
		return File{}, err
	}
	f, err := stat(path)
	if err != nil {
		return File{}, err
	}
	f.Digest, err = Digest(ctx, path)
	return f, err
}

func stat(path string) (File, error) {
	var s unix.Stat_t
	if err := unix.Stat(path, &s); err != nil {
		return File{}, fmt.Errorf("look at snapshot: %w", err)
	}
	return File{Bytes: s.Size, Changed: s.Ctim.Nano()}, nil
}

// blockSize is in what pieces Digest looks at a file.
const blockSize = 64 << 10

// Digest tells the content of a file: the SHA-256 of its length and of all
// blocks that aren't zeros, with their places. Memory and disks are mostly
// holes, which cost nothing this way.
func Digest(ctx context.Context, path string) (string, error) {
	f, info, err := plainfile.Open(path)
	if err != nil {
		return "", fmt.Errorf("digest: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	_ = binary.Write(h, binary.LittleEndian, info.Size()) // a hash takes everything
	block, zeros := make([]byte, blockSize), make([]byte, blockSize)
	for at := int64(0); ; at += blockSize {
		if ctx.Err() != nil {
			return "", fmt.Errorf("digest: %w", context.Cause(ctx))
		}
		data, err := f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return hex.EncodeToString(h.Sum(nil)), nil // holes alone from here on
		}
		if err != nil {
			return "", fmt.Errorf("digest: find data: %w", err)
		}
		at = data &^ (blockSize - 1)
		n, err := f.ReadAt(block, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return "", fmt.Errorf("digest: %w", err)
		}
		if !bytes.Equal(block[:n], zeros[:n]) {
			_ = binary.Write(h, binary.LittleEndian, at)
			h.Write(block[:n])
		}
	}
}

// realDisk implements disk.
type realDisk struct{}

func (realDisk) Write(path string, data []byte) error { return os.WriteFile(path, data, 0o600) }

func (realDisk) Sync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync snapshot: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("sync snapshot: %w", err)
	}
	return nil
}

func (realDisk) Place(from, to string) error {
	err := os.Rename(from, to)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, unix.ENOTEMPTY) {
		return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_EXCHANGE)
	}
	return err
}

// DiskUse is what the files take of the disk: most of them is holes.
func (s Snapshot) DiskUse() (total int64) {
	for _, name := range files() {
		var st unix.Stat_t
		if unix.Stat(s.Path(name), &st) == nil {
			const block = 512
			total += st.Blocks * block
		}
	}
	return total
}
