package registry

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
)

// The specification's own words for what is a name, and what a tag.
var (
	specName = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	specTag  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	specSum  = regexp.MustCompile(`^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$`)
)

// FuzzNames holds names, tags and digests to the specification.
func FuzzNames(f *testing.F) {
	for _, seed := range []string{"app", "team/app", "a__b", "a___b", "a--b", "a..b", "a-", "/a", "a//b", "A", "v1", ".v", "-v", "_v", strings.Repeat("a", 300),
		"sha256:" + strings.Repeat("0a", 32), "sha512:" + strings.Repeat("f0", 64), "sha256:", ":", "sha256:" + strings.Repeat("A", 64)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if got, want := CheckRepo(text) == nil, specName.MatchString(text) && len(text) <= maxRepo; got != want {
			t.Errorf("%q is a repository: %v, by the specification %v", text, got, want)
		}
		if got, want := CheckTag(text) == nil, specTag.MatchString(text); got != want {
			t.Errorf("%q is a tag: %v, by the specification %v", text, got, want)
		}
		d, err := ParseDigest(text)
		if got, want := err == nil, specSum.MatchString(text); got != want || got && string(d) != text {
			t.Errorf("%q is a digest: %v, by the specification %v", text, got, want)
		}
	})
}

// FuzzManifest: whatever is taken is JSON, names only digests, each once, and is
// called by its content; whatever is not is a refusal with a word of the
// specification.
func FuzzManifest(f *testing.F) {
	sum := "sha256:" + strings.Repeat("0a", 32)
	for _, seed := range []string{
		`{"schemaVersion":2,"config":{"digest":"` + sum + `","size":1},"layers":[{"digest":"` + sum + `","size":9223372036854775807}]}`,
		`{"schemaVersion":2,"mediaType":"` + ociIndex + `","manifests":[{"mediaType":"` + ociManifest + `","digest":"` + sum + `","size":1}]}`,
		`{"schemaVersion":2,"config":{"digest":"x"},"layers":null,"subject":{"digest":"` + sum + `"},"annotations":{"a":"b"}}`,
		`{"schemaVersion":1}`, `{}`, `[]`, ``, `{"schemaVersion":2,"config":null}`,
	} {
		f.Add([]byte(seed), "")
		f.Add([]byte(seed), ociManifest)
		f.Add([]byte(seed), "application/json; charset=utf-8")
	}
	f.Fuzz(func(t *testing.T, content []byte, mediaType string) {
		m, err := ParseManifest(content, mediaType, "")
		if err != nil {
			if code := nimbus.ErrorCode(err); code != nimbus.CodeInvalid && code != nimbus.CodeTooLarge {
				t.Errorf("it is refused with %s: %v", code, err)
			}
			return
		}
		if !json.Valid(content) {
			t.Errorf("%q is taken", content)
		}
		seen := map[Digest]bool{}
		for _, d := range append(append([]Digest{}, m.Blobs...), m.Manifests...) {
			if _, err := ParseDigest(string(d)); err != nil || seen[d] {
				t.Errorf("it names %q, %v", d, err)
			}
			seen[d] = true
		}
		if m.Digest != Of(SHA256, content) || m.ImageSize < m.Size || !isManifest(m.MediaType) && !isIndex(m.MediaType) {
			t.Errorf("it is %+v", m)
		}
	})
}
