package library

import (
	"fmt"
	"path"
	"strings"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/source"
)

// importName is what an import is called: what was asked for, or what a registry
// calls it. No job could use one that no label can say, or that means another
// image. Codes: invalid.
func (l *Library) importName(reference, asked string) (string, error) {
	switch {
	case asked == "":
		return registryName(reference)
	case isReference(asked):
		return "", nimbus.Errorf(nimbus.CodeInvalid, "%q can't be the name of an import", clip(asked)).
			WithHint("use a word without : / and @: jobs look names with these up in a registry")
	case !nimbus.IsImageName(asked):
		return "", nimbus.Errorf(nimbus.CodeInvalid, "%q can't be the name of an import: no label image:NAME can say it", clip(asked)).
			WithHint("use lower case letters, digits and ._- only, a letter or digit first, no two dots together, at most %d%s", nimbus.MaxImageNameBytes, suggestion(asked))
	case asked == nimbus.DefaultImage || l.built(asked):
		return "", nimbus.Errorf(nimbus.CodeInvalid, "%q can't be the name of an import: jobs that say it get the image that was built", asked).
			WithHint("use another word")
	}
	return asked, nil
}

// registryName is what jobs call an image of a registry.
func registryName(reference string) (string, error) {
	if !source.IsRegistry(reference) {
		return "", nimbus.Errorf(nimbus.CodeInvalid, "an image of %s has no name of its own that jobs could use", clip(reference)).
			WithHint("say what jobs call it: --as NAME%s", suggestion(baseName(reference)))
	}
	canonical, err := source.Canonical(reference)
	if err != nil {
		return "", fmt.Errorf("name the import: %w", err)
	}
	if !nimbus.IsImageName(canonical) {
		return "", nimbus.Errorf(nimbus.CodeInvalid, "no label image:NAME can say %s", clip(canonical)).
			WithHint("labels are in lower case and names have at most %d letters; say what jobs call it: --as NAME%s", nimbus.MaxImageNameBytes, suggestion(baseName(canonical)))
	}
	return canonical, nil
}

// built tells whether the host has an image of that name that no conversion made.
func (l *Library) built(name string) bool {
	_, err := l.cfg.Images.Open(name)
	return err == nil
}

// baseName is the last part of a reference, without its kind, tag and digest.
func baseName(reference string) string {
	base := path.Base(strings.TrimRight(reference, "/"))
	for _, suffix := range []string{".tar", ".oci"} {
		base = strings.TrimSuffix(base, suffix)
	}
	base, _, _ = strings.Cut(base, "@")
	if i := strings.LastIndexByte(base, ':'); i > 0 && !source.IsKind(base[:i+1]) {
		base = base[:i]
	}
	return base[strings.LastIndexByte(base, ':')+1:]
}

// suggestion is a usable name that is like another, as the end of a hint; ""
// where nothing of it can be used.
func suggestion(like string) string {
	word := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '_' || r == '.' {
			return r
		}
		return '-'
	}, strings.ToLower(like))
	const short = 40
	for strings.Contains(word, "..") {
		word = strings.ReplaceAll(word, "..", ".")
	}
	word = strings.Trim(word[:min(short, len(word))], "._-")
	if !nimbus.IsImageName(word) || word == nimbus.DefaultImage {
		return ""
	}
	return fmt.Sprintf(" (%s, say)", word)
}

// clip shortens what somebody typed for a message.
func clip(s string) string {
	const most = 100
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
