package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"github.com/moby/moby/client"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
)

// importTimeout bounds the import of an image that Nimbus built.
const importTimeout = 10 * time.Minute

// builtPrefix is before the names of these images in the daemon. No registry is
// called so.
const builtPrefix = "nimbus.invalid/"

// builtIn is an image that Nimbus built, as microVMs boot it, in the daemon. It
// is named by its digest: one that is built anew is imported anew.
func (i *images) builtIn(ctx context.Context, g *grip, built image.Image, tell func(string)) (picture, error) {
	digest := built.RootDigest()
	const enough = 32
	if len(digest) < enough {
		return picture{}, nimbus.Errorf(nimbus.CodeInternal, "the manifest of image %q has no digest of its root", built.Name).
			WithHint("build it again: nimbus images build %s", built.Name)
	}
	reference := builtPrefix + built.Name + ":" + digest[:enough]
	if err := g.keep(ctx, reference); err != nil {
		return picture{}, err
	}
	p, _, err := i.inspect(ctx, reference)
	if nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		return p, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, importTimeout, nimbus.Errorf(nimbus.CodeUnavailable, "image %s was not imported within %s", built.Name, importTimeout))
	defer cancel()
	leave, err := i.enter(ctx, tell)
	if err != nil {
		return picture{}, err
	}
	defer leave()
	if p, _, err = i.inspect(ctx, reference); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		return p, err // somebody else's job had it imported meanwhile
	}
	if err := built.Verify(); err != nil {
		return picture{}, err
	}
	tell(fmt.Sprintf("importing image %s into docker, once", built.Name))
	if err := i.importRoot(ctx, built.Root(), reference); err != nil {
		return picture{}, fmt.Errorf("import image %s: %w", built.Name, err)
	}
	if p, _, err = i.inspect(ctx, reference); err != nil {
		return p, err
	}
	i.noteFetched(ctx, p, false, reference)
	return p, nil
}

// importRoot hands a squashfs to the daemon as a tar.
func (i *images) importRoot(ctx context.Context, root, reference string) error {
	program, err := exec.LookPath("sqfs2tar")
	if err != nil {
		return nimbus.Errorf(nimbus.CodeUnavailable, "sqfs2tar is not installed").WithHint("on Debian: apt-get install squashfs-tools-ng")
	}
	cmd := exec.CommandContext(ctx, program, root)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	tar, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("read it: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("read it: %w", err)
	}
	repo, tag, _ := strings.Cut(reference, ":")
	importErr := i.receive(ctx, tar, repo, tag)
	if importErr != nil {
		tar.Close() // it may still be writing
	}
	if err := cmd.Wait(); err != nil && importErr == nil {
		importErr = fmt.Errorf("read it: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
		_, rmErr := i.daemon.api.ImageRemove(ctx, reference, client.ImageRemoveOptions{})
		importErr = errors.Join(importErr, rmErr)
	}
	return importErr
}

func (i *images) receive(ctx context.Context, tar io.Reader, repo, tag string) error {
	r, err := i.daemon.api.ImageImport(ctx, client.ImageImportSource{Source: tar, SourceName: "-"}, repo, client.ImageImportOptions{Tag: tag})
	if err != nil {
		return i.daemon.reason(err)
	}
	defer r.Close()
	const enough = 64 << 10
	_, err = io.Copy(io.Discard, io.LimitReader(r, enough)) // its end is that of the import; that it is there is looked at
	if err != nil {
		return fmt.Errorf("docker daemon: %w", err)
	}
	return nil
}
