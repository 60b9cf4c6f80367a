package distribution

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/registry"
	"github.com/nimbus-ci/nimbus/internal/transfer"
)

func (c *call) getManifest() error {
	m, err := c.from.Manifest(c.r.Context(), c.place, c.what)
	if err != nil {
		return fmt.Errorf("look up a manifest: %w", err)
	}
	c.stale()
	header := c.w.Header()
	header.Set("Docker-Content-Digest", string(m.Digest))
	header.Set("ETag", etag(m.Digest))
	header.Set("Content-Type", m.MediaType)
	if c.r.Header.Get("If-None-Match") == etag(m.Digest) {
		c.w.WriteHeader(http.StatusNotModified)
		return nil
	}
	header.Set("Content-Length", strconv.Itoa(len(m.Content)))
	c.w.WriteHeader(http.StatusOK)
	if c.r.Method == http.MethodHead {
		return nil
	}
	c.from.Pulled(c.place, m.Digest)
	_, _ = c.Bounds.Downstream(c.w).Write(m.Content) // the caller is gone: nobody to tell
	return nil
}

// putManifest keeps a manifest under its digest, and under the tag that the path
// or the tags that the query has.
func (c *call) putManifest() error {
	content, leave, err := c.readManifest()
	if err != nil {
		return err
	}
	defer leave()
	tags := c.r.URL.Query()["tag"]
	var digest registry.Digest
	if strings.Contains(c.what, ":") {
		if digest, err = registry.ParseDigest(c.what); err != nil {
			return err //nolint:wrapcheck // it is told as it is
		}
	} else {
		tags = append(tags, c.what)
	}
	m, err := registry.ParseManifest(content, c.r.Header.Get("Content-Type"), digest)
	if err != nil {
		return err //nolint:wrapcheck // it is told as it is
	}
	if err := c.Registry.PutManifest(c.r.Context(), c.place, m, tags); err != nil {
		return fmt.Errorf("push a manifest: %w", err)
	}
	header := c.w.Header()
	header.Set("Location", Prefix+c.name+"/manifests/"+string(m.Digest))
	header.Set("Docker-Content-Digest", string(m.Digest))
	if m.Subject != "" {
		header.Set("Oci-Subject", string(m.Subject))
	}
	for _, tag := range c.r.URL.Query()["tag"] {
		header.Add("Oci-Tag", tag)
	}
	header.Set("Content-Length", "0")
	c.w.WriteHeader(http.StatusCreated)
	return nil
}

// smallManifest is how large a manifest may be to be read whoever else sends one:
// nearly all are.
const smallManifest = 64 << 10

// readManifest reads the body, which has a bound, and has to come in time: it is in
// memory. Who sends a large one waits for others that do. leave is called once the
// content is not needed any more.
func (c *call) readManifest() (content []byte, leave func(), err error) {
	size := c.r.ContentLength
	if size > registry.MaxManifest {
		return nil, nil, tooLong()
	}
	leave = func() {}
	if size < 0 || size > smallManifest {
		if leave, err = c.Registry.AwaitManifest(c.r.Context(), c.place); err != nil {
			return nil, nil, fmt.Errorf("read a manifest: %w", err)
		}
	}
	var body bytes.Buffer
	body.Grow(int(max(size, 0)) + bytes.MinRead)
	bounds := transfer.Bounds{Idle: c.Bounds.Idle, Whole: 2 * c.Bounds.Idle}
	n, err := io.Copy(&body, &io.LimitedReader{R: bounds.Upstream(c.w, c.r, size), N: registry.MaxManifest + 1})
	switch {
	case err != nil:
		err = fmt.Errorf("read a manifest: %w", err)
	case n > registry.MaxManifest:
		err = tooLong()
	}
	if err != nil {
		leave()
		return nil, nil, err
	}
	return body.Bytes(), leave, nil
}

func (c *call) deleteManifest() error {
	if err := c.Registry.RemoveManifest(c.r.Context(), c.caller.Principal, c.place, c.what); err != nil {
		return fmt.Errorf("delete a manifest: %w", err)
	}
	c.accepted()
	return nil
}

// listTags lists tags, a page of them where the query says how many.
func (c *call) listTags() error {
	most, after, err := page(c.r)
	if err != nil {
		return err
	}
	tags, more, err := c.from.Tags(c.r.Context(), c.place, after, most)
	if err != nil {
		return fmt.Errorf("list tags: %w", err)
	}
	c.stale()
	if more && len(tags) > 0 {
		c.next(c.r.URL.Path, "n", strconv.Itoa(most), "last", tags[len(tags)-1])
	}
	if tags == nil {
		tags = []string{}
	}
	writeJSON(c.w, http.StatusOK, struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{c.name, tags})
	return nil
}

// page reads which part of a list a request wants.
func page(r *http.Request) (most int, after string, err error) {
	query := r.URL.Query()
	most, after = registry.MaxPage, query.Get("last")
	if text := query.Get("n"); text != "" {
		n, ok := transfer.Digits(text)
		if !ok {
			return 0, "", registry.Refuse("PAGINATION_NUMBER_INVALID", nimbus.CodeInvalid, "%.40q is no number of entries", text)
		}
		most = int(min(n, registry.MaxPage))
	}
	return most, after, nil
}

func (c *call) listReferrers() error {
	digest, err := registry.ParseDigest(c.what)
	if err != nil {
		return err //nolint:wrapcheck // it is told as it is
	}
	query := c.r.URL.Query()
	var after registry.Digest
	if text := query.Get("last"); text != "" {
		if after, err = registry.ParseDigest(text); err != nil {
			return err //nolint:wrapcheck // it is told as it is
		}
	}
	wants := query.Get("artifactType")
	all, next, err := c.from.Referrers(c.r.Context(), c.place, digest, wants, after)
	if err != nil {
		return fmt.Errorf("list referrers: %w", err)
	}
	header := c.w.Header()
	if wants != "" {
		header.Set("Oci-Filters-Applied", "artifactType")
	}
	if next != "" {
		c.next(c.r.URL.Path, "artifactType", wants, "last", string(next))
	}
	type descriptor struct {
		MediaType    string          `json:"mediaType"`
		Digest       registry.Digest `json:"digest"`
		Size         int64           `json:"size"`
		ArtifactType string          `json:"artifactType,omitempty"`
		Annotations  json.RawMessage `json:"annotations,omitempty"`
	}
	list := make([]descriptor, len(all))
	for i, m := range all {
		list[i] = descriptor{m.MediaType, m.Digest, m.Size, m.ArtifactType, m.Annotations}
	}
	header.Set("Content-Type", "application/vnd.oci.image.index.v1+json")
	writeJSON(c.w, http.StatusOK, struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Manifests     []descriptor `json:"manifests"`
	}{2, "application/vnd.oci.image.index.v1+json", list})
	return nil
}
