package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/cli/worktree"
)

// upload packs this directory straight into the request, and tells how far it
// is when that takes longer than a second.
func upload(ctx context.Context, a *app, cl *client.Client) (id string, err error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find this directory: %w", err)
	}
	stop := a.progress(func() string { return "listing files" })
	names, err := worktree.List(ctx, dir)
	stop()
	if err != nil {
		return "", err
	}
	p := &worktree.Packer{Dir: dir, Names: names}
	stop = a.progress(func() string {
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

// progress shows what is going on, each second from the first on, until stop.
// stop may be called more than once.
func (a *app) progress(now func() string) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		shown := false
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				if shown && a.errStyle.on {
					fmt.Fprint(a.Err, "\r\x1b[K")
				}
				return
			case <-tick.C:
			}
			shown = true
			if a.errStyle.on {
				fmt.Fprint(a.Err, "\r\x1b[K"+a.errStyle.quiet(now()))
			} else {
				a.info("%s", now())
			}
		}
	}()
	return func() { cancel(); <-done }
}
