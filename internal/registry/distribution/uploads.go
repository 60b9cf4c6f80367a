package distribution

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/registry"
	"github.com/nimbus-ci/nimbus/internal/transfer"
)

// algorithmParam says by which algorithm a blob's digest will be.
const algorithmParam = "digest-algorithm"

// beginUpload begins an upload, or does without one: where the blob can be mounted,
// or comes with this request.
func (c *call) beginUpload() error {
	query := c.r.URL.Query()
	if text := query.Get("mount"); text != "" {
		digest, err := registry.ParseDigest(text)
		if err != nil {
			return err //nolint:wrapcheck // it is told as it is
		}
		mounted, err := c.mount(query.Get("from"), digest)
		if err != nil || mounted {
			return err
		}
	} else if text := query.Get("digest"); text != "" {
		digest, err := registry.ParseDigest(text)
		if err != nil {
			return err //nolint:wrapcheck // it is told as it is
		}
		body, chunk := c.chunk(-1, c.r.ContentLength)
		if err := c.Registry.PutBlob(c.r.Context(), c.place, chunk, digest); err != nil {
			return fmt.Errorf("push a blob: %w", body.Linger(err))
		}
		c.created(digest)
		return nil
	}
	algorithm := query.Get(algorithmParam)
	if algorithm != "" && !registry.KnownAlgorithm(algorithm) {
		return registry.Refuse(registry.DigestInvalid, nimbus.CodeInvalid, "%.40q is no algorithm of digests that is known here", algorithm)
	}
	c.progress(registry.Upload{ID: c.Registry.NewUpload(c.place)}, http.StatusAccepted)
	return nil
}

// mount makes a blob of another repository of the org one of this, where the caller
// may pull there. Else it has to be pushed: that it is somewhere is nobody's
// business.
func (c *call) mount(from string, digest registry.Digest) (mounted bool, err error) {
	source := c.place
	if from != "" {
		place, may, err := c.may(c.r.Context(), c.caller, from, false)
		if err != nil && nimbus.ErrorCode(err) != nimbus.CodeInvalid {
			return false, err
		}
		if err != nil || !slices.Contains(may, pull) || place.OrgID != c.place.OrgID {
			return false, nil //nolint:nilerr // what is no repository has nothing to mount
		}
		source = place
	}
	switch err := c.Registry.Mount(c.r.Context(), source, c.place, digest); {
	case nimbus.ErrorCode(err) == nimbus.CodeNotFound:
		return false, nil
	case err != nil:
		return false, fmt.Errorf("mount a blob: %w", err)
	}
	c.created(digest)
	return true, nil
}

// created answers that a blob is there.
func (c *call) created(digest registry.Digest) {
	header := c.w.Header()
	header.Set("Location", Prefix+c.name+"/blobs/"+string(digest))
	header.Set("Docker-Content-Digest", string(digest))
	header.Set("Content-Length", "0")
	c.w.WriteHeader(http.StatusCreated)
}

// progress answers how far an upload has come.
func (c *call) progress(u registry.Upload, status int) {
	location := Prefix + c.name + "/blobs/uploads/" + u.ID
	if algorithm := c.r.URL.Query().Get(algorithmParam); registry.KnownAlgorithm(algorithm) {
		location += "?" + algorithmParam + "=" + url.QueryEscape(algorithm)
	}
	header := c.w.Header()
	header.Set("Location", location)
	header.Set("Docker-Upload-Uuid", u.ID)
	header.Set("Range", "0-"+strconv.FormatInt(max(0, u.Size-1), 10)) // the same of none and of one byte: so it is specified
	if status == http.StatusRequestedRangeNotSatisfiable {
		return
	}
	if status != http.StatusNoContent {
		header.Set("Content-Length", "0")
	}
	c.w.WriteHeader(status)
}

// chunk is the body of the request. Who is refused in its midst sends on for a
// while (transfer.Upstream.Linger): else he would see a connection that breaks, and
// not that the quota is full.
func (c *call) chunk(at, size int64) (*transfer.Upstream, registry.Chunk) {
	body := c.Bounds.Upstream(c.w, c.r, size)
	return body, registry.Chunk{Body: body, Size: size, At: at, Algorithm: c.r.URL.Query().Get(algorithmParam)}
}

// maxOffset is where no blob reaches.
const maxOffset = 1 << 60

// begins reads where the bytes of a request begin, -1 where it does not say so, and
// how many these are, which it may say though it has no length.
func begins(header string, length int64) (at, size int64, err error) {
	if header == "" {
		return -1, length, nil
	}
	text := strings.TrimPrefix(header, "bytes ")
	text, _, _ = strings.Cut(text, "/")
	first, last, ok := strings.Cut(text, "-")
	from, ok1 := transfer.Digits(first)
	to, ok2 := transfer.Digits(last)
	if !ok || !ok1 || !ok2 || to < from || to > maxOffset {
		return 0, 0, registry.Refuse(registry.BlobUploadInvalid, nimbus.CodeInvalid, "Content-Range is %.100q, and has to be FIRST-LAST", header)
	}
	if length >= 0 && to-from+1 != length {
		return 0, 0, registry.Refuse(registry.SizeInvalid, nimbus.CodeInvalid, "Content-Range is of %d bytes, and the body has %d", to-from+1, length)
	}
	return from, to - from + 1, nil
}

// rest is the chunk of a request that goes on with an upload.
func (c *call) rest() (*transfer.Upstream, registry.Chunk, error) {
	at, size, err := begins(c.r.Header.Get("Content-Range"), c.r.ContentLength)
	if err != nil {
		return nil, registry.Chunk{}, err
	}
	body, chunk := c.chunk(at, size)
	return body, chunk, nil
}

func (c *call) appendUpload() error {
	body, chunk, err := c.rest()
	if err != nil {
		return err
	}
	u, err := c.Registry.Append(c.r.Context(), c.place, c.what, chunk)
	if err != nil {
		return c.outOfOrder(body.Linger(err))
	}
	c.progress(u, http.StatusAccepted)
	return nil
}

func (c *call) finishUpload() error {
	digest, err := registry.ParseDigest(c.r.URL.Query().Get("digest"))
	if err != nil {
		return err //nolint:wrapcheck // it is told as it is
	}
	body, chunk, err := c.rest()
	if err != nil {
		return err
	}
	if err := c.Registry.Finish(c.r.Context(), c.place, c.what, chunk, digest); err != nil {
		return c.outOfOrder(body.Linger(err))
	}
	c.created(digest)
	return nil
}

// outOfOrder tells where an upload goes on, where that is what went wrong.
func (c *call) outOfOrder(err error) error {
	var o *registry.OutOfOrderError
	if !errors.As(err, &o) {
		return fmt.Errorf("take in what comes of a blob: %w", err)
	}
	c.progress(registry.Upload{ID: c.what, Size: o.Size}, http.StatusRequestedRangeNotSatisfiable)
	writeErrors(c.w, http.StatusRequestedRangeNotSatisfiable, registry.BlobUploadInvalid, o.Error())
	return nil
}

func (c *call) tellUpload() error {
	u, err := c.Registry.Upload(c.r.Context(), c.place, c.what)
	if err != nil {
		return fmt.Errorf("look up an upload: %w", err)
	}
	c.progress(u, http.StatusNoContent)
	return nil
}

func (c *call) cancelUpload() error {
	if err := c.Registry.Cancel(c.r.Context(), c.place, c.what); err != nil {
		return fmt.Errorf("give an upload up: %w", err)
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}
