package cli

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
	"github.com/nimbus-ci/nimbus/internal/cli/worktree"
)

// upload packs this directory straight into the request, and tells how far it
// is when that takes longer than a second.
func upload(ctx context.Context, a *app, cl *client.Client) (id string, err error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find this directory: %w", err)
	}
	stop := terminal.Progress(a.Err, func() string { return "listing files" })
	names, err := worktree.List(ctx, dir)
	stop()
	if err != nil {
		return "", err
	}
	p := &worktree.Packer{Dir: dir, Names: names}
	stop = terminal.Progress(a.Err, func() string {
		done, bytes := p.Progress()
		return fmt.Sprintf("uploading files: %d of %d, %.1f MiB", done, len(names), float64(bytes)/(1<<20))
	})
	defer stop()

	r, w := io.Pipe()
	packed := make(chan struct{})
	go func() {
		defer close(packed)
		w.CloseWithError(p.Pack(ctx, w))
	}()
	id, err = cl.UploadWorkspace(ctx, r)
	r.CloseWithError(context.Canceled) // the request may have ended first
	<-packed
	if err != nil {
		return "", fmt.Errorf("upload files: %w", err)
	}
	if skipped := p.Skipped(); len(skipped) > 0 {
		a.info("left out, for they are no files: %q", skipped)
	}
	return id, nil
}
