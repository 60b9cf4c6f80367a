package nimbus

import (
	"fmt"
	"slices"
	"strings"
)

// Bounds of names.
const (
	MaxReach     = 32  // names that a job may ask for
	MaxHostReach = 256 // names that a host's operator may allow
	maxNameBytes = 253 // of a name in DNS
	maxNamePart  = 63
)

// Names is a set of names that a sandbox may reach: sorted, in lower case,
// separated by spaces. "*.example.com" stands for all that is below
// example.com, however deep, and not for example.com itself.
type Names string

// NamesOf makes a set of names. Codes: invalid.
func NamesOf(names ...string) (Names, error) {
	set := make([]string, len(names))
	for i, name := range names {
		set[i] = strings.ToLower(strings.TrimSuffix(name, "."))
		if !validName(set[i]) {
			return "", Errorf(CodeInvalid, "%q is not a name that can be reached", clip(name)).
				WithHint("write example.com, or *.example.com for all below it: no scheme, port, path or address")
		}
	}
	slices.Sort(set)
	set = slices.Compact(set)
	if len(set) > MaxHostReach {
		return "", Errorf(CodeInvalid, "%d names are more than %d", len(set), MaxHostReach).
			WithHint("*.example.com stands for all below example.com")
	}
	return Names(strings.Join(set, " ")), nil
}

// Words are the names one by one.
func (n Names) Words() []string { return strings.Fields(string(n)) }

// Match tells whether a name is in the set, by itself or by a pattern. Case and
// a dot at its end don't matter.
func (n Names) Match(name string) bool {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	for word := range strings.FieldsSeq(string(n)) {
		if matchName(word, name) {
			return true
		}
	}
	return false
}

// matchName tells whether a name, or a pattern, is within a pattern.
func matchName(pattern, name string) bool {
	if domain, ok := strings.CutPrefix(pattern, "*"); ok {
		return len(name) > len(domain) && strings.HasSuffix(name, domain)
	}
	return pattern == name
}

// Beyond is the first of other names that is not in the set; "" for none.
func (n Names) Beyond(other Names) string {
	for word := range strings.FieldsSeq(string(other)) {
		if !n.Match(word) {
			return word
		}
	}
	return ""
}

// String is how the names are written for people.
func (n Names) String() string {
	const enough = 4
	words := n.Words()
	if more := len(words) - enough; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(words[:enough], ", "), more)
	}
	return strings.Join(words, ", ")
}

// validName keeps names to what DNS and its users take for the name of a host
// that is somebody's: two parts at least, and no address.
func validName(name string) bool {
	name = strings.TrimPrefix(name, "*.")
	if len(name) > maxNameBytes {
		return false
	}
	parts := strings.Split(name, ".")
	for _, part := range parts {
		if part == "" || len(part) > maxNamePart || strings.Trim(part, "-") != part ||
			strings.Trim(part, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return len(parts) > 1 && strings.Trim(parts[len(parts)-1], "0123456789") != ""
}
