package registry

import (
	"encoding/json"
	"errors"
	"mime"
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
	URLs      []string `json:"urls"`
	Platform  platform `json:"platform"`
}

// elsewhere tells whether content need not be here: it may be had from others, or
// not at all.
func (d descriptor) elsewhere() bool {
	return len(d.URLs) > 0 || strings.Contains(d.MediaType, ".nondistributable.") || strings.Contains(d.MediaType, ".foreign.")
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
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     string            `json:"mediaType"`
		ArtifactType  string            `json:"artifactType"`
		Config        *descriptor       `json:"config"`
		Layers        []descriptor      `json:"layers"`
		Manifests     []descriptor      `json:"manifests"`
		Subject       *descriptor       `json:"subject"`
		Annotations   map[string]string `json:"annotations"`
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
	if len(m.ArtifactType) > maxMediaType {
		return Manifest{}, invalidManifest("its artifactType has more than %d bytes", maxMediaType)
	}
	if text.Subject == nil {
		return m, nil
	}
	if m.Subject, err = ParseDigest(text.Subject.Digest); err != nil {
		return Manifest{}, err
	}
	m.Annotations = text.Annotations
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
	switch {
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

// name notes what a manifest names.
func (m *Manifest) name(all []descriptor) error {
	if len(all) > MaxRefs {
		return &RefusalError{ManifestInvalid, nimbus.Errorf(nimbus.CodeTooLarge, "the manifest names %d blobs, %d is the most", len(all), MaxRefs)}
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
		if seen[digest] || d.elsewhere() {
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
