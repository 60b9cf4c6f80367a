package actions

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/transfer"
)

// blob is the handler of a call as to Azure's blob storage.
func (h *handler) blob(call func(w http.ResponseWriter, r *http.Request, query url.Values) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Without it go-actions-cache, and BuildKit with it, crashes.
		w.Header().Set("X-Ms-Request-Id", rand.Text())
		query, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			err = nimbus.Errorf(nimbus.CodeInvalid, "the URL's query can't be read: %w", err)
		} else {
			err = call(w, r, query)
		}
		if err != nil {
			h.reply(w, r, err, writeBlobError)
		}
	})
}

// put takes a content whole, one block of it, or the list of its blocks.
func (h *handler) put(w http.ResponseWriter, r *http.Request, query url.Values) error {
	s, err := h.verify(r, query, toPut)
	if err != nil {
		return err
	}
	switch comp := query.Get("comp"); comp {
	case "":
		err = h.putBlob(w, r, s)
	case "block":
		err = h.putBlock(w, r, s, query.Get("blockid"))
	case "blocklist":
		err = h.putBlockList(w, r, s)
	default:
		err = nimbus.Errorf(nimbus.CodeUnsupported, "comp=%.100s is not known here", comp)
	}
	if nimbus.ErrorCode(err) == nimbus.CodeUnavailable && !nimbus.IsFull(err) {
		// At a 503 go-actions-cache tries again for a quarter of an hour.
		return h.without(w, r, blobErrorAs(http.StatusFailedDependency), err)
	}
	if err != nil {
		return err
	}
	// Anything but 201 is a failure to both of Azure's SDKs.
	header := w.Header()
	transfer.TellUpload(header, s.org, s.id)
	header.Set("ETag", etag(s.id))
	header.Set("Content-Length", "0")
	w.WriteHeader(http.StatusCreated)
	return nil
}

func (h *handler) putBlob(w http.ResponseWriter, r *http.Request, s signed) error {
	if kind := r.Header.Get("X-Ms-Blob-Type"); !strings.EqualFold(kind, "BlockBlob") {
		return nimbus.Errorf(nimbus.CodeUnsupported, "only block blobs are kept here, not %.100q", kind)
	}
	return h.take(w, r, s, "")
}

func (h *handler) putBlock(w http.ResponseWriter, r *http.Request, s signed, id string) error {
	// A plus sign that was not escaped has become a space.
	block, err := transfer.BlockID(strings.ReplaceAll(id, " ", "+"))
	if err != nil {
		return err
	}
	return h.take(w, r, s, block)
}

func (h *handler) take(w http.ResponseWriter, r *http.Request, s signed, block string) error {
	body := h.bounds().Upstream(w, r, r.ContentLength)
	body.Asks(h.Anew, func() error { return h.stillOf(r.Context(), s) })
	if err := h.Cache.PutBlock(r.Context(), s.id, block, body, r.ContentLength); err != nil {
		return body.Linger(fmt.Errorf("take a block: %w", err))
	}
	return nil
}

// putBlockList takes the order of blocks. A list is held in memory: so it has no
// more blocks than came, each of which is a file and counts, one of an upload is read
// at a time, and it has to come at once.
func (h *handler) putBlockList(w http.ResponseWriter, r *http.Request, s signed) error {
	came, err := h.Cache.Blocks(r.Context(), s.id)
	if err != nil {
		return fmt.Errorf("count blocks: %w", err)
	}
	if _, busy := h.lists.LoadOrStore(s.id, nil); busy {
		return &nimbus.Error{Code: nimbus.CodeRateLimited, Message: "another list of this upload is being read", RetryAfter: time.Second}
	}
	defer h.lists.Delete(s.id)
	body := transfer.Bounds{Idle: h.Idle, Whole: h.Idle}.Upstream(w, r, r.ContentLength)
	blocks, err := transfer.ReadBlockList(body, came)
	if err != nil {
		return err
	}
	if err := h.Cache.Arrange(r.Context(), s.id, blocks); err != nil {
		return fmt.Errorf("arrange blocks: %w", err)
	}
	return nil
}
