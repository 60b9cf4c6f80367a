package distribution

import (
	"fmt"
	"log/slog"
	"net/http"
	"strconv"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/registry"
	"github.com/nimbus-ci/nimbus/internal/transfer"
)

// getBlob sends a blob, or a part of it.
func (c *call) getBlob() error {
	digest, err := registry.ParseDigest(c.what)
	if err != nil {
		return err //nolint:wrapcheck // it is told as it is
	}
	b, err := c.from.Blob(c.r.Context(), c.place, digest)
	if err != nil {
		return fmt.Errorf("look up a blob: %w", err)
	}
	part, partial, err := transfer.Wanted(c.r.Header, b.Size, etag(digest))
	header := c.w.Header()
	if err != nil {
		header.Set("Content-Range", fmt.Sprintf("bytes */%d", b.Size))
		writeErrors(c.w, http.StatusRequestedRangeNotSatisfiable, registry.SizeInvalid, "the range is not one part of the blob")
		return nil
	}
	header.Set("Docker-Content-Digest", string(digest))
	header.Set("ETag", etag(digest))
	header.Set("Accept-Ranges", "bytes")
	// Whoever pushed it chose the bytes, and the host may be that of the web app: a
	// browser keeps them and does not show them.
	header.Set("Content-Type", "application/octet-stream")
	header.Set("Content-Disposition", "attachment")
	header.Set("Cache-Control", "private, max-age=31536000, no-transform")
	if c.r.Header.Get("If-None-Match") == etag(digest) {
		c.w.WriteHeader(http.StatusNotModified)
		return nil
	}
	header.Set("Content-Length", strconv.FormatInt(part.N, 10))
	status := http.StatusOK
	if partial {
		status = http.StatusPartialContent
		header.Set("Content-Range", part.ContentRange(b.Size))
	}
	if c.r.Method == http.MethodHead {
		c.w.WriteHeader(status)
		return nil
	}
	content, err := c.from.Open(c.r.Context(), c.place, b, part.Offset, part.N)
	if err != nil {
		return fmt.Errorf("open a blob: %w", err)
	}
	defer content.Close()
	c.w.WriteHeader(status)
	if sent, err := content.WriteTo(c.Bounds.Downstream(c.w)); err != nil || sent != part.N {
		c.Log.LogAttrs(c.r.Context(), slog.LevelDebug, "a pull broke off", slog.String("digest", string(digest)), slog.Int64("bytes", sent), slog.Any("error", err))
		panic(http.ErrAbortHandler) // the status is out: only a connection that breaks tells it
	}
	return nil
}

func etag(digest registry.Digest) string { return `"` + string(digest) + `"` }

func (c *call) deleteBlob() error {
	digest, err := registry.ParseDigest(c.what)
	if err != nil {
		return err //nolint:wrapcheck // it is told as it is
	}
	if err := c.Registry.RemoveBlob(c.r.Context(), c.place, digest); err != nil {
		return fmt.Errorf("delete a blob: %w", err)
	}
	c.accepted()
	return nil
}

func (c *call) accepted() {
	c.w.Header().Set("Content-Length", "0")
	c.w.WriteHeader(http.StatusAccepted)
}

// tooLong is the refusal of a manifest that is too large.
func tooLong() error {
	return registry.Refuse(registry.ManifestInvalid, nimbus.CodeTooLarge, "the manifest has more than %d bytes", registry.MaxManifest)
}
