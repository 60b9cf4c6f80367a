package cache

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/nimbus-ci/nimbus"
)

const (
	maxScope   = 512 // bytes: "refs/heads/" and a branch
	maxBlockID = 256 // bytes of a client's id of a block
)

// check refuses a caller that can't be: its fields become rows and paths. They
// are of a verified token, so that what is wrong is a fault of ours.
func (c Caller) check() error {
	if err := nimbus.CheckID(nimbus.PrefixOrg, c.OrgID); err != nil {
		return err
	}
	if c.Repo != "" && (!nimbus.ValidRepo(c.Repo) || c.Repo != strings.ToLower(c.Repo)) {
		return nimbus.Errorf(nimbus.CodeInvalid, "%.80q is no repository", c.Repo)
	}
	if len(c.Read) > MaxScopes {
		return nimbus.Errorf(nimbus.CodeInvalid, "%d scopes are too many, %d is the most", len(c.Read), MaxScopes)
	}
	for _, scope := range c.Read {
		if err := checkText("scope", scope, maxScope); err != nil {
			return err
		}
	}
	if c.Write == "" {
		return nil
	}
	return checkText("scope", c.Write, maxScope)
}

// checkText refuses what can't be kept the same on both engines, or would be
// other than it looks in a list. Everything else is fine: nothing of it becomes
// a path.
func checkText(what, text string, most int) error {
	switch {
	case text == "":
		return nimbus.Errorf(nimbus.CodeInvalid, "the %s is empty", what)
	case len(text) > most:
		return nimbus.Errorf(nimbus.CodeInvalid, "the %s has %d bytes, %d is the most", what, len(text), most)
	case !utf8.ValidString(text):
		return nimbus.Errorf(nimbus.CodeInvalid, "the %s is not valid UTF-8", what)
	case strings.ContainsFunc(text, unicode.IsControl):
		return nimbus.Errorf(nimbus.CodeInvalid, "the %s has a control character, such as a line break", what)
	}
	return nil
}

func checkNames(key, version string) error {
	if err := checkText("key", key, MaxKey); err != nil {
		return err
	}
	return checkText("version", version, MaxVersion)
}

// Own is how the versions begin under which nothing is put but by Save: what comes
// by GitHub's protocols, whose clients name versions themselves, is never found in
// the place of what was checked on its way in.
const Own = "\u2026"

// checkTheirs refuses a version that no client may name. Codes: invalid.
func checkTheirs(version string) error {
	if strings.HasPrefix(version, Own) {
		return nimbus.Errorf(nimbus.CodeInvalid, "no version may begin with %s", Own)
	}
	return nil
}

// place is where a caller's new entry is. Codes: forbidden, invalid.
func (c Caller) place(key, version string) (Place, error) {
	if err := c.check(); err != nil {
		return Place{}, err
	}
	if c.Write == "" {
		return Place{}, errReadOnly
	}
	return Place{OrgID: c.OrgID, Repo: c.Repo, Scope: c.Write, Version: version, Key: key}, checkNames(key, version)
}

// Quotas count bytes, and each block costs a file and a row besides. So an entry of
// many blocks has to have bytes in them: real clients send a MiB or more in each.
const (
	freeBlocks = 32
	blockBytes = 32 << 10
)

// MostBlocks is how many blocks an upload of so many bytes may have.
func MostBlocks(bytes int64) int64 { return min(freeBlocks+max(bytes, 0)/blockBytes, MaxBlocks) }
