package keyed

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"

	"github.com/nimbus-ci/nimbus"
)

// Turborepo's protocol: contents, whose headers it wants to have again, and what
// it asks for besides. Its team is not read: a token is of one org.
const (
	turboPath   = "v8/artifacts"
	maxTag      = 600 // bytes, as Turborepo has it
	maxDuration = 20
	maxEvents   = 1 << 20
)

// turbo answers what is no content. done is false for what is one.
func (h *Handler) turbo(w http.ResponseWriter, r *http.Request, rest string) (done bool, err error) {
	switch {
	case rest == "/status" && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		writeJSON(w, http.StatusOK, map[string]string{"status": "enabled"})
	case rest == "/events" && r.Method == http.MethodPost: // which hits and misses it had: the cache counts by itself
		body := h.bounds.Upstream(w, r, r.ContentLength)
		if n, err := io.Copy(io.Discard, io.LimitReader(body, maxEvents+1)); err != nil || n > maxEvents {
			return true, nimbus.Errorf(nimbus.CodeTooLarge, "the events have more than %d bytes, or broke off", maxEvents)
		}
		writeJSON(w, http.StatusOK, struct{}{})
	default:
		return false, nil
	}
	return true, nil
}

// turboNote is what is kept with a content.
type turboNote struct {
	Tag      string `json:"tag,omitempty"`
	Duration string `json:"duration,omitempty"` // milliseconds
}

func turboThing(path string) (thing, error) {
	hash, ok := strings.CutPrefix(path, turboPath+"/")
	if !ok || strings.Contains(hash, "/") {
		return thing{}, nimbus.Errorf(nimbus.CodeNotFound, "there is nothing of Turborepo's at %.80q", path)
	}
	return thing{version: turboVersion, key: hash, note: noteOfTurbo, tell: tellTurbo, stored: func(w http.ResponseWriter) {
		writeJSON(w, http.StatusAccepted, map[string][]string{"urls": {}})
	}}, nil
}

func noteOfTurbo(h http.Header) (string, error) {
	n := turboNote{Tag: h.Get("X-Artifact-Tag"), Duration: h.Get("X-Artifact-Duration")}
	if len(n.Tag) > maxTag || !isPrintable(n.Tag) || len(n.Duration) > maxDuration || strings.Trim(n.Duration, "0123456789.") != "" {
		return "", nimbus.Errorf(nimbus.CodeInvalid, "x-artifact-tag or x-artifact-duration is none, or longer than %d bytes", maxTag)
	}
	if n == (turboNote{}) {
		return "", nil
	}
	text, err := json.Marshal(n)
	return string(text), err //nolint:wrapcheck // of two texts: never
}

func isPrintable(text string) bool {
	return !strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c > '~' })
}

func tellTurbo(h http.Header, meta string) {
	var n turboNote
	if meta == "" || json.Unmarshal([]byte(meta), &n) != nil {
		return
	}
	if n.Tag != "" {
		h.Set("X-Artifact-Tag", n.Tag)
	}
	if n.Duration != "" {
		h.Set("X-Artifact-Duration", n.Duration)
	}
}
