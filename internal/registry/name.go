package registry

import (
	"strings"

	"github.com/nimbus-ci/nimbus"
)

// Bounds of names.
const (
	maxRepo = 215 // bytes: with an org's name and a slash, less than clients refuse
	maxTag  = 128
)

// CheckRepo tells whether a repository may be called so, behind its org: words of
// lower-case letters and digits, with a dot, one or two underscores, or dashes
// between them, in a path. Codes: invalid.
func CheckRepo(name string) error {
	ok := name != "" && len(name) <= maxRepo
	for word := range strings.SplitSeq(name, "/") {
		ok = ok && isPathWord(word)
	}
	if !ok {
		return &RefusalError{NameInvalid, nimbus.Errorf(nimbus.CodeInvalid, "%.100q can't be the name of a repository", name).
			WithHint("it is a path of words of lower-case letters and digits, with single dots, underscores or dashes between them, of up to %d bytes", maxRepo)}
	}
	return nil
}

// isPathWord tells whether a word is [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*.
func isPathWord(word string) bool {
	for {
		rest := strings.TrimLeft(word, "abcdefghijklmnopqrstuvwxyz0123456789")
		if len(rest) == len(word) {
			return false
		}
		if rest == "" {
			return true
		}
		switch dashes := len(rest) - len(strings.TrimLeft(rest, "-")); {
		case dashes > 0:
			word = rest[dashes:]
		case strings.HasPrefix(rest, "__"):
			word = rest[2:]
		case rest[0] == '_', rest[0] == '.':
			word = rest[1:]
		default:
			return false
		}
	}
}

// CheckTag tells whether a tag may be called so. Codes: invalid.
func CheckTag(tag string) error {
	ok := tag != "" && len(tag) <= maxTag && tag[0] != '.' && tag[0] != '-'
	for _, c := range []byte(tag) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '.' || c == '-')
	}
	if !ok {
		return Refuse(ManifestInvalid, nimbus.CodeInvalid, "%.140q can't be a tag: letters, digits, dots, underscores and dashes, up to %d of them, a dot or dash not at the beginning", tag, maxTag)
	}
	return nil
}
