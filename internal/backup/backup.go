// Package backup keeps the embedded profile's data directory in one file, and
// brings it back.
//
// A backup is a tar archive, compressed with zstd, whose first member says what
// is in it. Its database is one state, copied while the server goes on.
package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/store"
)

// Names in the data directory, and in a backup of it.
const (
	database   = "nimbus.db"
	masterKey  = "master.key"
	adminToken = "admin.token"
	logs       = "logs"
	blobs      = "blobs"
	manifest   = "manifest.json"
)

// format is that of the archive. One that is higher can't be read.
const format = 1

// Manifest is what a backup says of itself.
type Manifest struct {
	Format  int       `json:"format"`
	MadeAt  time.Time `json:"made_at"`
	Version string    `json:"nimbus_version"`
	Schema  int64     `json:"schema"`
	// Keys and Logs tell whether it has the master key and the administrator's
	// token, and the logs and uploaded files.
	Keys bool `json:"keys"`
	Logs bool `json:"logs"`
}

// Options say what to keep.
type Options struct {
	Data    string // the data directory
	File    string // what to write; replaced when it is there
	Keys    bool   // the master key and the administrator's token too
	Logs    bool   // the logs and uploaded files too
	Version string // of this program
	Now     time.Time
}

// Write makes a backup, whole or not at all, and reads it back. The server may
// run meanwhile.
func Write(ctx context.Context, o Options) (m Manifest, err error) {
	if _, err := os.Stat(filepath.Join(o.Data, database)); errors.Is(err, fs.ErrNotExist) {
		return m, nimbus.Errorf(nimbus.CodeNotFound, "%s has no database of Nimbus in it", o.Data).WithHint("name the server's data directory with --data")
	}
	file, err := filepath.Abs(o.File)
	if err != nil {
		return m, fmt.Errorf("find the backup's folder: %w", err)
	}
	work, err := os.MkdirTemp(filepath.Dir(file), ".nimbus-backup-")
	if err != nil {
		return m, nimbus.Errorf(nimbus.CodeInvalid, "the backup can't be written: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	m = Manifest{Format: format, MadeAt: o.Now.UTC(), Version: o.Version, Keys: o.Keys, Logs: o.Logs}
	// The database first: lines that it knows of are in the logs by then.
	if m.Schema, err = store.CopySQLite(ctx, filepath.Join(o.Data, database), filepath.Join(work, database)); err != nil {
		return m, err
	}
	packed := filepath.Join(work, "packed")
	if err := pack(ctx, packed, m, o.Data, filepath.Join(work, database)); err != nil {
		return m, fmt.Errorf("write the backup: %w", err)
	}
	if err := verify(ctx, packed); err != nil {
		return m, fmt.Errorf("read the backup back: %w", err)
	}
	if err := os.Rename(packed, file); err != nil {
		return m, fmt.Errorf("put the backup in place: %w", err)
	}
	return m, syncDir(filepath.Dir(file))
}

func pack(ctx context.Context, path string, m Manifest, data, db string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := zstd.NewWriter(f, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	p := packer{ctx: ctx, tar: tar.NewWriter(z)}
	err = p.all(m, data, db)
	return errors.Join(err, p.tar.Close(), z.Close(), f.Sync())
}

// packer writes members, and stops when ctx ends.
type packer struct {
	ctx context.Context
	tar *tar.Writer
}

func (p packer) all(m Manifest, data, db string) error {
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := p.member(manifest, bytes.NewReader(raw), int64(len(raw))); err != nil {
		return err
	}
	if err := p.file(database, db); err != nil {
		return err
	}
	if m.Keys {
		for _, name := range []string{masterKey, adminToken} {
			err := p.file(name, filepath.Join(data, name))
			if name == masterKey && errors.Is(err, fs.ErrNotExist) {
				return nimbus.Errorf(nimbus.CodeNotFound, "the data directory has no master key in it").WithHint("keep the one that you have where you have it, and leave --with-key out")
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	if m.Logs {
		return errors.Join(p.tree(data, logs), p.tree(data, blobs))
	}
	return nil
}

func (p packer) tree(data, name string) error {
	return filepath.WalkDir(filepath.Join(data, name), func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // never made, or removed meanwhile
			return nil
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(data, path)
		if err != nil {
			return err
		}
		if err = p.file(filepath.ToSlash(rel), path); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
}

// file packs a file as long as it is now; what is appended meanwhile is for the
// next backup.
func (p packer) file(name, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return p.member(name, f, info.Size())
}

func (p packer) member(name string, r io.Reader, size int64) error {
	if err := p.ctx.Err(); err != nil {
		return err
	}
	if err := p.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: size, Format: tar.FormatPAX}); err != nil {
		return err
	}
	_, err := io.CopyN(p.tar, r, size)
	return err
}

// verify reads a backup to its end: each block has a checksum.
func verify(ctx context.Context, path string) error {
	return unpack(ctx, path, func(_ string, r io.Reader) error {
		_, err := io.Copy(io.Discard, r)
		return err
	})
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	return nil
}
