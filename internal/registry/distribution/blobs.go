package distribution

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/registry"
)

// getBlob sends a blob, or a part of it.
func (c *call) getBlob() error {
	digest, err := registry.ParseDigest(c.what)
	if err != nil {
		return err //nolint:wrapcheck // it is told as it is
	}
	b, err := c.Registry.Blob(c.r.Context(), c.place, digest)
	if err != nil {
		return fmt.Errorf("look up a blob: %w", err)
	}
	offset, n, partial, ok := wanted(c.r.Header, b.Size, etag(digest))
	header := c.w.Header()
	if !ok {
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
	header.Set("Content-Length", strconv.FormatInt(n, 10))
	status := http.StatusOK
	if partial {
		status = http.StatusPartialContent
		header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", offset, offset+n-1, b.Size))
	}
	if c.r.Method == http.MethodHead {
		c.w.WriteHeader(status)
		return nil
	}
	content, err := c.Registry.Open(c.r.Context(), c.place, b, offset, n)
	if err != nil {
		return fmt.Errorf("open a blob: %w", err)
	}
	defer content.Close()
	c.w.WriteHeader(status)
	if sent, err := content.WriteTo(c.downstream()); err != nil || sent != n {
		c.Log.LogAttrs(c.r.Context(), slog.LevelDebug, "a pull broke off", slog.String("digest", string(digest)), slog.Int64("bytes", sent), slog.Any("error", err))
		panic(http.ErrAbortHandler) // the status is out: only a connection that breaks tells it
	}
	return nil
}

func etag(digest registry.Digest) string { return `"` + string(digest) + `"` }

// wanted reads which part of a blob a request wants; partial is false where it
// wants all of it, ok where that is no part of it.
func wanted(header http.Header, size int64, tag string) (offset, n int64, partial, ok bool) {
	text := header.Get("Range")
	if since := header.Get("If-Range"); text == "" || since != "" && since != tag {
		return 0, size, false, true
	}
	text, ok = strings.CutPrefix(text, "bytes=")
	first, last, ok2 := strings.Cut(text, "-")
	if !ok || !ok2 {
		return 0, 0, true, false
	}
	if first == "" {
		n, ok := digits(last)
		n = min(n, size)
		return size - n, n, true, ok && n > 0
	}
	from, ok := digits(first)
	if !ok || from >= size {
		return 0, 0, true, false
	}
	if last == "" {
		return from, size - from, true, true
	}
	to, ok := digits(last)
	if !ok || to < from {
		return 0, 0, true, false
	}
	return from, min(to, size-1) - from + 1, true, true
}

// stride is how much a reader must take within Idle.
const stride = 4 << 20

// downstream is a response whose reader has to go on. It passes files to the
// connection such that the kernel copies them.
type downstream struct {
	to   http.ResponseWriter
	line *http.ResponseController
	idle time.Duration
}

func (c *call) downstream() *downstream {
	return &downstream{c.w, http.NewResponseController(c.w), c.Idle}
}

func (d *downstream) extend() error {
	if err := d.line.SetWriteDeadline(time.Now().Add(d.idle)); err != nil {
		return fmt.Errorf("bound how long a pull may take: %w", err)
	}
	return nil
}

// Write implements io.Writer.
func (d *downstream) Write(p []byte) (written int, err error) {
	for written < len(p) && err == nil {
		if err = d.extend(); err == nil {
			var n int
			n, err = d.to.Write(p[written:min(len(p), written+stride)])
			written += n
		}
	}
	return written, err
}

// ReadFrom implements io.ReaderFrom. net/http knows a file only directly in an
// io.LimitedReader: one around another would be copied by hand.
func (d *downstream) ReadFrom(r io.Reader) (n int64, err error) {
	from, ok := d.to.(io.ReaderFrom)
	if !ok {
		return io.Copy(struct{ io.Writer }{d}, r) //nolint:wrapcheck // a writer's error is its caller's to wrap
	}
	limited, ok := r.(*io.LimitedReader)
	if !ok {
		limited = &io.LimitedReader{R: r, N: 1<<63 - 1}
	}
	for limited.N > 0 {
		if err := d.extend(); err != nil {
			return n, err
		}
		part := min(limited.N, stride)
		took, err := from.ReadFrom(&io.LimitedReader{R: limited.R, N: part})
		n += took
		limited.N -= took
		if err != nil || took < part {
			return n, err //nolint:wrapcheck // a writer's error is its caller's to wrap
		}
	}
	return n, nil
}

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
