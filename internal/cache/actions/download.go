package actions

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/transfer"
)

// etag is an entry's: its content never changes.
func etag(id int64) string { return `"` + strconv.FormatInt(id, 10) + `"` }

// get sends an entry's content, or a part of it.
func (h *handler) get(w http.ResponseWriter, r *http.Request, query url.Values) error {
	s, err := h.verify(r, query, toGet)
	if err != nil {
		return err
	}
	entry, err := h.Cache.Entry(r.Context(), s.id)
	if err != nil {
		return fmt.Errorf("look up an entry: %w", err)
	}
	if entry.OrgID != s.org {
		return nimbus.Errorf(nimbus.CodeNotFound, "there is no such entry")
	}
	transfer.TellEntry(w.Header(), transfer.Entry{OrgID: entry.OrgID, ID: entry.ID, Size: entry.Size})
	// Whoever saved it chose the bytes, and the host may be that of the web app: a
	// browser keeps them and does not show them.
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Disposition", "attachment")
	return h.send(w, r, entry)
}

// send sends an entry's content, or the part of it that is asked for.
func (h *handler) send(w http.ResponseWriter, r *http.Request, entry cache.Entry) error {
	header := w.Header()
	part, partial, err := transfer.Wanted(r.Header, entry.Size, etag(entry.ID))
	if err != nil {
		return h.unsatisfiable(w, r, entry.Size, err)
	}
	header.Set("ETag", etag(entry.ID))
	header.Set("Last-Modified", entry.CreatedAt.UTC().Format(http.TimeFormat))
	header.Set("Accept-Ranges", "bytes")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Content-Security-Policy", "sandbox; default-src 'none'")
	header.Set("Cache-Control", "private, no-transform")
	header.Set("X-Ms-Blob-Type", "BlockBlob")
	// Clients that see no length don't notice that a content broke off.
	header.Set("Content-Length", strconv.FormatInt(part.N, 10))
	status := http.StatusOK
	if partial {
		status = http.StatusPartialContent
		header.Set("Content-Range", part.ContentRange(entry.Size))
	}
	if r.Method == http.MethodHead {
		w.WriteHeader(status)
		return nil
	}
	content, err := h.Cache.Open(r.Context(), entry, part.Offset, part.N)
	if nimbus.ErrorCode(err) == nimbus.CodeUnavailable {
		// At a 503 @actions/cache waits for two minutes, and then goes on without; at
		// this it does at once.
		return h.without(w, r, blobErrorAs(http.StatusNotFound), err)
	}
	if err != nil {
		return fmt.Errorf("open an entry: %w", err)
	}
	defer content.Close()
	w.WriteHeader(status)
	if n, err := content.WriteTo(h.bounds().Downstream(w)); err != nil || n != part.N {
		h.Log.LogAttrs(r.Context(), slog.LevelDebug, "a download broke off",
			slog.Int64("entry", entry.ID), slog.Int64("bytes", n), slog.Any("error", err))
		panic(http.ErrAbortHandler) // the status is out: only a connection that breaks tells it
	}
	return nil
}

// without answers while contents can't be had, or kept, by a status at which
// clients go on without the cache.
func (h *handler) without(w http.ResponseWriter, r *http.Request, write writer, err error) error {
	h.Log.WarnContext(r.Context(), "the place of contents is away, clients go on without the cache", "method", r.Method, "path", r.URL.Path, "error", err)
	h.reply(w, r, err, write)
	return nil
}

// blobErrorAs is writeBlobError with another status.
func blobErrorAs(status int) writer {
	return func(w http.ResponseWriter, t told) {
		t.blobIs = status
		writeBlobError(w, t)
	}
}

// unsatisfiable says how long the content is.
func (h *handler) unsatisfiable(w http.ResponseWriter, r *http.Request, size int64, err error) error {
	t := h.tell(r, err)
	t.blob, t.blobIs = "InvalidRange", http.StatusRequestedRangeNotSatisfiable
	w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", size))
	writeBlobError(w, t)
	return nil
}
