package actions

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/transfer"
)

// v1 is the handler of a call of protocol version 1.
func (h *handler) v1(call func(w http.ResponseWriter, r *http.Request, g Grant) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g, err := h.grant(r)
		if err == nil {
			err = call(w, r, g)
		}
		if err != nil {
			h.reply(w, r, err, writeV1Error)
		}
	})
}

// v1Find looks for `keys`, which are parted by commas: the first is the one that
// is wanted, the others are what it may be restored from.
func (h *handler) v1Find(w http.ResponseWriter, r *http.Request, g Grant) error {
	if err := mayLookUp(g); err != nil {
		return err
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil || len(r.URL.RawQuery) > maxCall {
		return nimbus.Errorf(nimbus.CodeInvalid, "the query can't be read, or is longer than %d bytes", maxCall)
	}
	keys := strings.Split(query.Get("keys"), ",")
	entry, ok, err := h.Cache.Find(r.Context(), g.Caller, keys[0], keys[1:], query.Get("version"))
	if err != nil {
		return fmt.Errorf("look for a key: %w", err)
	}
	if !ok {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	location, err := h.sign(r, g, toGet, entry.ID)
	if err != nil {
		return err
	}
	found := v1Of(entry)
	found.Location = location
	writeJSON(w, http.StatusOK, found)
	return nil
}

// v1Entry is an entry in the words of version 1.
type v1Entry struct {
	Location string    `json:"archiveLocation,omitempty"` // fetched without the token
	Key      string    `json:"cacheKey"`
	Scope    string    `json:"scope"`
	Version  string    `json:"cacheVersion"`
	Created  time.Time `json:"creationTime"`
}

func v1Of(e cache.Entry) v1Entry {
	return v1Entry{Key: e.Key, Scope: e.Scope, Version: e.Version, Created: e.CreatedAt.UTC()}
}

// listed is how many entries of a scope a list shows: it is for people to read.
const listed = 20

// v1List lists what begins with a key, whatever its version: @actions/cache asks
// for it after a miss where its user wants to know more.
func (h *handler) v1List(w http.ResponseWriter, r *http.Request, g Grant) error {
	if err := mayLookUp(g); err != nil {
		return err
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nimbus.Errorf(nimbus.CodeInvalid, "the query can't be read: %w", err)
	}
	found := []v1Entry{}
	for _, scope := range g.Caller.Read {
		entries, _, err := h.Cache.List(r.Context(), g.Caller.OrgID, g.Caller.Repo, cache.Filter{Prefix: query.Get("key"), Scope: scope}, nimbus.PageRequest{Size: listed})
		if err != nil {
			return fmt.Errorf("list what begins with a key: %w", err)
		}
		for _, e := range entries {
			found = append(found, v1Of(e))
		}
	}
	writeJSON(w, http.StatusOK, struct {
		Count   int       `json:"totalCount"`
		Entries []v1Entry `json:"artifactCaches"`
	}{len(found), found})
	return nil
}

// v1Reserve takes a place.
func (h *handler) v1Reserve(w http.ResponseWriter, r *http.Request, g Grant) error {
	var q struct {
		Key     string `json:"key"`
		Version string `json:"version"`
		Size    int64  `json:"cacheSize"` // go-actions-cache does not say
	}
	if err := h.readJSON(w, r, &q); err != nil {
		return err
	}
	if q.Size < 0 {
		return nimbus.Errorf(nimbus.CodeInvalid, "an entry of %d bytes", q.Size)
	}
	upload, err := h.Cache.Reserve(r.Context(), g.Caller, q.Key, q.Version, q.Size)
	if refusedSoftly(err) {
		// Of all statuses it is this one whose message @actions/cache shows.
		t := h.tell(r, err)
		t.status = http.StatusBadRequest
		writeV1Error(w, t)
		return nil
	}
	if err != nil {
		return fmt.Errorf("reserve a key: %w", err)
	}
	writeJSON(w, http.StatusCreated, struct {
		ID int64 `json:"cacheId"`
	}{upload.ID})
	return nil
}

// v1Upload takes a part of a content. Its sender may not say how long the body
// is: Content-Range does, and the body must be as long.
func (h *handler) v1Upload(w http.ResponseWriter, r *http.Request, g Grant) error {
	part, err := transfer.ParseContentRange(r.Header.Get("Content-Range"))
	if err != nil {
		return err
	}
	if r.ContentLength >= 0 && r.ContentLength != part.N {
		return nimbus.Errorf(nimbus.CodeInvalid, "Content-Range is of %d bytes, the body of %d", part.N, r.ContentLength)
	}
	id, err := h.v1ID(r)
	if err != nil {
		return err
	}
	// An id is a small number, which everybody can guess.
	if err := h.Cache.CheckUpload(r.Context(), g.Caller, id); err != nil {
		return fmt.Errorf("look up an upload: %w", err)
	}
	body := h.bounds().Upstream(w, r, part.N)
	body.Asks(h.Anew, func() error { return h.Admit(r.Context(), g.Caller) })
	err = h.Cache.PutRange(r.Context(), id, part.Offset, body, part.N)
	if nimbus.ErrorCode(err) == nimbus.CodeUnavailable && !nimbus.IsFull(err) {
		return h.without(w, r, func(w http.ResponseWriter, t told) {
			t.status = http.StatusFailedDependency
			writeV1Error(w, t)
		}, body.Linger(err))
	}
	if err != nil {
		return body.Linger(fmt.Errorf("take a part: %w", err))
	}
	transfer.TellUpload(w.Header(), g.Caller.OrgID, id)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// v1Commit makes an upload an entry.
func (h *handler) v1Commit(w http.ResponseWriter, r *http.Request, g Grant) error {
	var q struct {
		Size int64 `json:"size"`
	}
	if err := h.readJSON(w, r, &q); err != nil {
		return err
	}
	id, err := h.v1ID(r)
	if err != nil {
		return err
	}
	if q.Size < 0 {
		return nimbus.Errorf(nimbus.CodeInvalid, "an entry of %d bytes", q.Size)
	}
	entry, err := h.Cache.CommitUpload(r.Context(), g.Caller, id, q.Size)
	if err != nil {
		return fmt.Errorf("commit an upload: %w", err)
	}
	transfer.TellEntry(w.Header(), transfer.Entry{OrgID: entry.OrgID, ID: entry.ID, Size: entry.Size, Digest: entry.Digest})
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (h *handler) v1ID(r *http.Request) (int64, error) {
	id, ok := transfer.Plain(r.PathValue("id"))
	if !ok {
		return 0, nimbus.Errorf(nimbus.CodeNotFound, "there is no upload %.100q", r.PathValue("id"))
	}
	return id, nil
}

// readJSON reads a call of version 1. Codes: invalid, too_large, cancelled.
func (h *handler) readJSON(w http.ResponseWriter, r *http.Request, v any) error {
	body, err := h.bounds().ReadSmall(w, r, maxCall)
	if err != nil {
		return err
	}
	// What is not UTF-8 would be read as if it were, and two keys be one.
	if !utf8.Valid(body) {
		return nimbus.Errorf(nimbus.CodeInvalid, "the call is not UTF-8")
	}
	if err := json.Unmarshal(body, v); err != nil {
		return nimbus.Errorf(nimbus.CodeInvalid, "the call can't be read as JSON: %w", err)
	}
	return nil
}
