package keyed

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
)

// Versions keep what each protocol puts apart from what the others do, and from what
// clients of GitHub's protocols name.
const (
	plainVersion  = cache.Own + "http"
	actionVersion = cache.Own + "bazel-ac"
	casVersion    = cache.Own + "bazel-cas"
	turboVersion  = cache.Own + "turborepo"
	nxVersion     = cache.Own + "nx"
)

// nxPath is how paths of Nx' begin.
const nxPath = "v1/cache/"

// thing is what a path names, and what its protocol expects of it.
type thing struct {
	version, key string
	again        cache.Again
	sha256       string // that a content must have
	// note reads what is kept with a content out of the headers of its PUT, and tell
	// says it again with the content; nil: nothing.
	note func(http.Header) (string, error)
	tell func(h http.Header, meta string)
	// stored answers a PUT in the words of its protocol; nil: by 201.
	stored func(http.ResponseWriter)
}

// thingAt reads the path below an org. Bazel's blobs have the hash of their
// content for a name, which is held to it; its actions are put again when they
// were run again. Codes: invalid, too_large.
func thingAt(path string) (thing, error) {
	if err := checkKey(path); err != nil {
		return thing{}, err
	}
	folder, rest, _ := strings.Cut(path, "/")
	switch {
	case folder == "cas" && isSHA256(rest):
		return thing{version: casVersion, key: rest, again: cache.AgainKeeps, sha256: rest}, nil
	case folder == "ac" && isSHA256(rest):
		return thing{version: actionVersion, key: rest}, nil
	case folder == "v8":
		return turboThing(path)
	}
	if hash, ok := strings.CutPrefix(path, nxPath); ok && !strings.Contains(hash, "/") {
		// Nx takes no other content for a hash: who could would change what others run.
		return thing{version: nxVersion, key: hash, again: cache.AgainRefused, stored: answer200}, nil
	}
	return thing{version: plainVersion, key: path}, nil
}

func answer200(w http.ResponseWriter) {
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusOK)
}

// checkKey refuses what could be read in two ways by who is on the way, and what
// is too long. None of it becomes a path.
func checkKey(key string) error {
	switch {
	case len(key) > cache.MaxKey:
		return nimbus.Errorf(nimbus.CodeTooLarge, "the key has %d bytes, %d is the most", len(key), cache.MaxKey)
	case strings.Trim(key, keyLetters) != "":
		return nimbus.Errorf(nimbus.CodeInvalid, "the key has a character that none may have").WithHint("keys are of letters, digits and %s", "/ . _ - + = ~ : @ ,")
	}
	for part := range strings.SplitSeq(key, "/") {
		if part == "" || part == "." || part == ".." {
			return nimbus.Errorf(nimbus.CodeInvalid, "the key has a part that is %q", part)
		}
	}
	return nil
}

const keyLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+=~:@,"

func isSHA256(text string) bool {
	const digits = 64
	return len(text) == digits && strings.Trim(text, "0123456789abcdef") == ""
}

// tagOf is an entry's: its content never changes, and another one's has another.
func tagOf(e cache.Entry) string { return `"` + strconv.FormatInt(e.ID, 10) + `"` }

// conditional answers what is asked for on a condition.
func (k call) conditional(tag string) (done bool) {
	match, none := k.r.Header.Get("If-Match"), k.r.Header.Get("If-None-Match")
	switch {
	case match != "" && !lists(match, tag):
		k.w.WriteHeader(http.StatusPreconditionFailed)
	case none != "" && lists(none, tag):
		k.w.WriteHeader(http.StatusNotModified)
	default:
		return false
	}
	return true
}

// lists tells whether a list of entity tags has one.
func lists(header, tag string) bool {
	for text := range strings.SplitSeq(header, ",") {
		if text = strings.TrimPrefix(strings.TrimSpace(text), "W/"); text == tag || text == "*" {
			return true
		}
	}
	return false
}
