package nimbus

import "strings"

// Bounds of a repository's name at GitHub, with room for what Enterprise
// Server lets owners be called.
const (
	maxOwnerBytes = 100
	maxRepoBytes  = 100
)

// ValidRepo tells whether name can be that of a repository: OWNER/NAME.
func ValidRepo(name string) bool {
	owner, repo, ok := strings.Cut(name, "/")
	return ok && len(owner) <= maxOwnerBytes && len(repo) <= maxRepoBytes &&
		madeOf(owner, "-_") && madeOf(repo, "-_.") && strings.Trim(repo, ".") != ""
}

// madeOf tells whether a text has letters, digits and some other characters
// only, and is not empty.
func madeOf(text, others string) bool {
	return text != "" && !strings.ContainsFunc(text, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune(others, r)
	})
}
