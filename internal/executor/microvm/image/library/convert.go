package library

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/flatten"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/rootfs"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/source"
)

// convert makes a root file system of a container image, unless there is one
// of the same image already. Codes: unavailable when the disk is full.
func (l *Library) convert(ctx context.Context, reference string, named source.Named, tell func(string)) (rootfs.Root, error) {
	root, err := l.converted(ctx, reference, named, tell)
	return root, l.cfg.Images.OrFull(err)
}

func (l *Library) converted(ctx context.Context, reference string, named source.Named, tell func(string)) (rootfs.Root, error) {
	began := time.Now()
	version, err := tool(ctx)
	if err != nil {
		return rootfs.Root{}, err
	}
	draft, err := l.roots.Draft(ctx)
	if err != nil {
		return rootfs.Root{}, err
	}
	defer draft.Discard()
	tell("looking up image " + plain(reference))
	opener := source.Opener{Arch: arch, Scratch: draft.ScratchDir, MaxBytes: l.cfg.Limits.Bytes, Named: named}
	img, err := opener.Open(ctx, reference)
	if err != nil {
		return rootfs.Root{}, err
	}
	defer img.Close()
	if root, ok := l.roots.FromSource(img.Digest, arch); ok && l.roots.Check(root) == nil {
		return root, nil
	}
	spool, err := draft.Scratch("spool") // goes with the draft
	if err != nil {
		return rootfs.Root{}, err
	}
	defer spool.Close()
	tree := flatten.New(spool, l.cfg.Limits)
	err = unpack(ctx, tree, img, tell)
	if err != nil {
		return rootfs.Root{}, fmt.Errorf("convert image %s: %w", plain(reference), err)
	}
	tell(fmt.Sprintf("writing %d files of %d MiB", tree.Entries(), tree.Size()>>20))
	if err := errors.Join(squash(ctx, tree, draft.Path()), seal(draft.Path(), img.Env)); err != nil {
		return rootfs.Root{}, fmt.Errorf("convert image %s: %w", plain(reference), err)
	}
	root, err := draft.Publish(ctx, rootfs.Manifest{
		Arch: arch, Source: plain(reference), SourceDigest: img.Digest, Files: tree.Entries(), Env: img.Env,
		ConvertedAt: time.Now().UTC(), Converter: version,
	}, rootfs.Provenance{Builder: l.cfg.Builder, Began: began})
	if err != nil {
		return rootfs.Root{}, err
	}
	tell(fmt.Sprintf("image %s is ready: %d MiB, %s", plain(reference), root.Size>>20, time.Since(began).Round(100*time.Millisecond)))
	return root, nil
}

func plain(reference string) string { return familiar(strings.TrimPrefix(reference, "docker://")) }

// unpack puts the layers together.
func unpack(ctx context.Context, tree *flatten.Tree, img *source.Image, tell func(string)) error {
	for n := range img.Layers() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		tell(fmt.Sprintf("fetching layer %d of %d (%d MiB in all)", n+1, img.Layers(), img.Bytes()>>20))
		layer, err := img.Layer(n)
		if err != nil {
			return err
		}
		err = tree.Apply(layer)
		if err := errors.Join(err, layer.Close()); err != nil {
			return err
		}
	}
	return nil
}

// squash writes the file system. Equal trees give equal bytes: no time but
// those of the files goes in.
func squash(ctx context.Context, tree *flatten.Tree, dst string) error {
	// LZ4 is read by an emulated machine in half of zstd's time.
	cmd := exec.CommandContext(ctx, program, "--quiet", "--force", "--no-skip", "--compressor", "lz4", "--defaults", "mtime=0", dst)
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("start %s: %w", program, err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", program, err)
	}
	err = errors.Join(tree.WriteTar(in), in.Close())
	if waitErr := cmd.Wait(); waitErr != nil {
		const enough = 1 << 10
		words := stderr.String()
		// It tells a full disk as an I/O error, and has removed what it wrote.
		if room, err := roomFor(dst); err == nil && room < tree.Size() {
			waitErr = errors.Join(waitErr, unix.ENOSPC)
		}
		return fmt.Errorf("%s: %w: %s", program, waitErr, strings.TrimSpace(words[max(0, len(words)-enough):]))
	}
	return err
}

// roomFor is how many bytes the disk of a file has left.
func roomFor(path string) (int64, error) {
	disk, err := executor.DiskOf(filepath.Dir(path))
	return disk.Total - disk.Used, err
}

// sealBlock is the unit in which a file system's file grows.
const sealBlock = 4 << 10

// seal writes behind the file system, where nobody who mounts it looks, what the
// image sets: two images with the same files that set other variables must not
// be taken for one.
func seal(path string, env []string) error {
	if len(env) == 0 {
		return nil
	}
	raw, err := json.Marshal(map[string][]string{"env": env})
	if err != nil {
		return fmt.Errorf("encode the image's variables: %w", err)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("write the image's variables: %w", err)
	}
	raw = append(raw, '\n')
	padding := make([]byte, (sealBlock-len(raw)%sealBlock)%sealBlock)
	_, err = f.Write(append(raw, padding...))
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write the image's variables: %w", err)
	}
	return nil
}

// program writes file systems without root and without mounts.
const program = "tar2sqfs"

// tool is the program and its version.
func tool(ctx context.Context) (string, error) {
	if _, err := exec.LookPath(program); err != nil {
		return "", nimbus.Errorf(nimbus.CodeUnavailable, "to convert images this host lacks %s", program).
			WithHint("on Debian: apt-get install squashfs-tools-ng")
	}
	out, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", program, err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line), nil
}
