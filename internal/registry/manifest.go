package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"mime"
	"reflect"
	"strings"

	"github.com/nimbus-ci/nimbus"
)

// The media types of manifests that are understood.
const (
	ociManifest    = "application/vnd.oci.image.manifest.v1+json"
	ociIndex       = "application/vnd.oci.image.index.v1+json"
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// maxMediaType bounds a media type.
const maxMediaType = 255

func isIndex(mediaType string) bool { return mediaType == ociIndex || mediaType == dockerList }
func isManifest(mediaType string) bool {
	return mediaType == ociManifest || mediaType == dockerManifest
}

type descriptor struct {
	MediaType string   `json:"mediaType"`
	Digest    string   `json:"digest"`
	Size      int64    `json:"size"`
	URLs      some     `json:"urls"`
	Platform  platform `json:"platform"`
}

// elsewhere tells whether content need not be here: it may be had from others, or
// not at all.
func (d descriptor) elsewhere() bool {
	return bool(d.URLs) || strings.Contains(d.MediaType, ".nondistributable.") || strings.Contains(d.MediaType, ".foreign.")
}

// A manifest of 4 MiB can have a list of a million things, each of which takes many
// times as much in memory as in the text. So lists are read one by one, and refused
// where they get too long, or not kept.

// shortList is how long the text of a list may be to be read at once.
const shortList = 16 << 10

// readList reads a JSON list one by one. It is of something that d decodes.
func readList(text []byte, each func(d *json.Decoder) error) error {
	if text[0] != '[' {
		return otherThan[[]any](text)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	if _, err := d.Token(); err != nil {
		return err //nolint:wrapcheck // told by notOfManifest
	}
	for d.More() {
		if err := each(d); err != nil {
			return err
		}
	}
	return nil
}

// otherThan tells that text is something else than it has to be.
func otherThan[T any](text []byte) error {
	what := map[byte]string{'[': "array", '{': "object", '"': "string", 't': "bool", 'f': "bool"}[text[0]]
	if what == "" {
		what = "number"
	}
	return &json.UnmarshalTypeError{Value: what, Type: reflect.TypeFor[T]()}
}

// descriptors are no more than one manifest may name.
type descriptors []descriptor

// UnmarshalJSON implements json.Unmarshaler.
func (l *descriptors) UnmarshalJSON(text []byte) error {
	if len(text) <= shortList {
		var all []descriptor
		err := json.Unmarshal(text, &all)
		*l = all
		return err //nolint:wrapcheck // told by notOfManifest
	}
	*l = descriptors{}
	return readList(text, func(d *json.Decoder) error {
		if len(*l) == MaxRefs {
			return tooManyNamed()
		}
		var one descriptor
		err := d.Decode(&one)
		*l = append(*l, one)
		return err //nolint:wrapcheck // told by notOfManifest
	})
}

// some is whether a list has anything.
type some bool

// UnmarshalJSON implements json.Unmarshaler.
func (s *some) UnmarshalJSON(text []byte) error {
	*s = false
	if string(text) == "null" {
		return nil
	}
	if text[0] != '[' {
		return otherThan[[]string](text)
	}
	*s = bytes.TrimLeft(text[1:], " \t\r\n")[0] != ']'
	return nil
}

// annotations are a JSON object of texts, as it was written.
type annotations json.RawMessage

// UnmarshalJSON implements json.Unmarshaler.
func (a *annotations) UnmarshalJSON(text []byte) error {
	*a = nil
	if string(text) == "null" {
		return nil
	}
	n, err := countTexts(text)
	if err != nil || n == 0 {
		return err
	}
	// JSON takes bytes in its texts that are no text, and a database does not.
	*a = annotations(bytes.ToValidUTF8(text, []byte("\uFFFD")))
	return nil
}

// countTexts counts the texts of a JSON object that has nothing else. That it is
// valid JSON has been looked at.
func countTexts(text []byte) (n int, err error) {
	if text[0] != '{' {
		return 0, otherThan[map[string]string](text)
	}
	for rest := text[1:]; ; n++ {
		rest = bytes.TrimLeft(rest, ", \t\r\n")
		if rest[0] == '}' {
			return n, nil
		}
		rest = bytes.TrimLeft(behindText(rest), ": \t\r\n")
		switch {
		case rest[0] == '"':
			rest = behindText(rest)
		case bytes.HasPrefix(rest, []byte("null")):
			rest = rest[len("null"):]
		default:
			return 0, otherThan[string](rest)
		}
	}
}

// behindText is what stands behind the JSON text with which something begins.
func behindText(text []byte) []byte {
	i := 1
	for ; text[i] != '"'; i++ {
		if text[i] == '\\' {
			i++
		}
	}
	return text[i+1:]
}

// ParseManifest reads a manifest that a client sends as of a media type, "" where
// it does not say which. digest is what the client calls it; "" is by SHA-256.
// Codes: invalid, too_large, unsupported.
func ParseManifest(content []byte, mediaType string, digest Digest) (Manifest, error) {
	if len(content) > MaxManifest {
		return Manifest{}, Refuse(ManifestInvalid, nimbus.CodeTooLarge, "the manifest has more than %d bytes", MaxManifest)
	}
	m := Manifest{Digest: Of(SHA256, content), Content: content, Size: int64(len(content))}
	if digest != "" {
		m.Digest = Of(digest.Algorithm(), content)
		if m.Digest != digest {
			return Manifest{}, Refuse(DigestInvalid, nimbus.CodeInvalid, "the manifest is called %s, and is %s", digest, m.Digest)
		}
	}
	var text struct {
		SchemaVersion int         `json:"schemaVersion"`
		MediaType     string      `json:"mediaType"`
		ArtifactType  string      `json:"artifactType"`
		Config        *descriptor `json:"config"`
		Layers        descriptors `json:"layers"`
		Manifests     descriptors `json:"manifests"`
		Subject       *descriptor `json:"subject"`
		Annotations   annotations `json:"annotations"`
	}
	if err := json.Unmarshal(content, &text); err != nil {
		return Manifest{}, notOfManifest(err)
	}
	var err error
	if m.MediaType, err = mediaTypeOf(mediaType, text.MediaType, text.Manifests != nil && text.Layers == nil); err != nil {
		return Manifest{}, err
	}
	named := text.Layers
	if text.Config != nil {
		named = append(named, *text.Config)
	}
	if isIndex(m.MediaType) {
		named = text.Manifests
	}
	if text.SchemaVersion != 2 {
		return Manifest{}, invalidManifest("its schemaVersion is %d, and 2 is the one that is known", text.SchemaVersion)
	}
	if isManifest(m.MediaType) && text.Config == nil {
		return Manifest{}, invalidManifest("it has no config")
	}
	if err := m.name(named); err != nil {
		return Manifest{}, err
	}
	m.ArtifactType = text.ArtifactType
	if m.ArtifactType == "" && text.Config != nil && isManifest(m.MediaType) {
		m.ArtifactType = text.Config.MediaType
	}
	if text.Config != nil && isManifest(m.MediaType) && (text.Config.MediaType == ociConfig || text.Config.MediaType == dockerConfig) {
		m.config = Digest(text.Config.Digest) // which m.name has read
	}
	if len(m.ArtifactType) > maxMediaType || strings.ContainsFunc(m.ArtifactType, func(r rune) bool { return r < ' ' || r > '~' }) {
		return Manifest{}, invalidManifest("its artifactType is not of up to %d plain characters", maxMediaType)
	}
	if text.Subject == nil {
		return m, nil
	}
	if m.Subject, err = ParseDigest(text.Subject.Digest); err != nil {
		return Manifest{}, err
	}
	m.Annotations = json.RawMessage(text.Annotations)
	return m, nil
}

// mediaTypeOf is the media type of a manifest: what the header says and what the
// content says must be the same.
func mediaTypeOf(header, inside string, index bool) (string, error) {
	if header != "" {
		parsed, _, err := mime.ParseMediaType(header)
		if err != nil {
			return "", invalidManifest("its Content-Type is %.100q", header)
		}
		header = parsed
	}
	if header == "application/json" || header == "application/octet-stream" {
		header = ""
	}
	if header != "" && inside != "" && header != inside {
		return "", invalidManifest("it is sent as %.100q, and says of itself that it is %.100q", header, inside)
	}
	if header == "" {
		header = inside
	}
	switch {
	case header == "" && index:
		return ociIndex, nil
	case header == "":
		return ociManifest, nil
	case isManifest(header), isIndex(header):
		return header, nil
	}
	return "", &RefusalError{ManifestInvalid, nimbus.Errorf(nimbus.CodeInvalid, "%.100q is no manifest that is known here", header).
		WithHint("known are manifests and indexes of OCI, and Docker's of schema 2")}
}

// notOfManifest is the refusal of what can't be read as a manifest. What Go calls
// what is read is nobody's business.
func notOfManifest(err error) error {
	var other *json.UnmarshalTypeError
	var refused *RefusalError
	switch {
	case errors.As(err, &refused):
		return refused
	case !errors.As(err, &other):
		return invalidManifest("it is no JSON: %v", err)
	case other.Field == "":
		return invalidManifest("it is a JSON %.40s, and has to be an object", other.Value)
	}
	return invalidManifest("its field %.100s can't be a JSON %.40s", other.Field, other.Value)
}

func invalidManifest(format string, args ...any) error {
	return &RefusalError{ManifestInvalid, nimbus.Errorf(nimbus.CodeInvalid, "the manifest is not valid: "+format, args...)}
}

func tooManyNamed() error {
	return &RefusalError{ManifestInvalid, nimbus.Errorf(nimbus.CodeTooLarge, "the manifest names more than %d blobs or manifests, which is the most", MaxRefs)}
}

// name notes what a manifest names.
func (m *Manifest) name(all []descriptor) error {
	if len(all) > MaxRefs {
		return tooManyNamed()
	}
	seen := make(map[Digest]bool, len(all))
	m.ImageSize = m.Size
	for _, d := range all {
		digest, err := ParseDigest(d.Digest)
		if err != nil {
			return err
		}
		if d.Size < 0 {
			return &RefusalError{SizeInvalid, nimbus.Errorf(nimbus.CodeInvalid, "the manifest says that %s has %d bytes", digest, d.Size)}
		}
		if d.elsewhere() {
			m.Elsewhere = append(m.Elsewhere, digest)
			continue
		}
		if seen[digest] {
			continue
		}
		seen[digest] = true
		// BuildKit keeps caches as indexes of layers.
		if isIndex(m.MediaType) && (d.MediaType == "" || isManifest(d.MediaType) || isIndex(d.MediaType)) {
			m.Manifests = append(m.Manifests, digest)
			m.isFor(d.Platform)
			continue
		}
		if d.Size > MaxImageSize || m.ImageSize+d.Size > MaxImageSize {
			return &RefusalError{SizeInvalid, nimbus.Errorf(nimbus.CodeInvalid, "the manifest names more bytes than there can be")}
		}
		m.ImageSize += d.Size
		m.Blobs = append(m.Blobs, digest)
	}
	return nil
}
