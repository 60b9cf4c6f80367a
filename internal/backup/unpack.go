package backup

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/nimbus-ci/nimbus"
)

const (
	maxManifest = 64 << 10
	// maxWindow bounds the memory that reading a backup takes.
	maxWindow = 64 << 20
	// sqliteMagic begins a database that is no archive: one from before a
	// migration, or a copy by other means.
	sqliteMagic = "SQLite format 3\x00"
)

// unpack reads a backup and hands out its members but the manifest, in order.
// Codes: invalid for a file that is none, or not a whole one.
func unpack(ctx context.Context, file string, each func(name string, r io.Reader) error) error {
	f, err := os.Open(file)
	if err != nil {
		return nimbus.Errorf(nimbus.CodeInvalid, "the backup can't be read: %w", err)
	}
	defer f.Close()
	buffered := bufio.NewReader(f)
	if start, _ := buffered.Peek(len(sqliteMagic)); bytes.Equal(start, []byte(sqliteMagic)) {
		return each(database, buffered)
	}
	z, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return fmt.Errorf("read the backup: %w", err)
	}
	defer z.Close()
	members := tar.NewReader(z)
	if err := readManifest(members); err != nil {
		return err
	}
	for {
		h, err := members.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return broken(err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if !known(h) {
			return broken(fmt.Errorf("the member %q does not belong there", h.Name))
		}
		if err := each(h.Name, members); err != nil {
			return err
		}
	}
}

func readManifest(members *tar.Reader) error {
	h, err := members.Next()
	if err != nil {
		return broken(err)
	}
	var m Manifest
	if h.Name == manifest {
		err = json.NewDecoder(io.LimitReader(members, maxManifest)).Decode(&m)
	}
	switch {
	case err != nil || m.Format < 1:
		return broken(errors.New("it does not say what is in it"))
	case m.Format > format:
		return nimbus.Errorf(nimbus.CodeUnsupported, "this is a backup of a newer Nimbus (%s)", m.Version).
			WithHint("restore it with the version of Nimbus that made it, or a newer one")
	}
	return nil
}

// known tells whether a member is one that a backup has.
func known(h *tar.Header) bool {
	if h.Typeflag != tar.TypeReg || !filepath.IsLocal(h.Name) || path.Clean(h.Name) != h.Name {
		return false
	}
	top, _, below := strings.Cut(h.Name, "/")
	if below {
		return top == logs || top == blobs
	}
	return slices.Contains([]string{database, masterKey, adminToken}, top)
}

func broken(err error) error {
	return nimbus.Errorf(nimbus.CodeInvalid, "this is no whole backup of Nimbus: %w", err)
}
