package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// The media types of configs that say for which platform an image is.
const (
	ociConfig    = "application/vnd.oci.image.config.v1+json"
	dockerConfig = "application/vnd.docker.container.image.v1+json"
)

// maxConfig is how large a config may be to be read for its platform: those of
// images have some kilobytes.
const maxConfig = 1 << 20

// platform is what an image is for, as descriptors and configs tell it.
type platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant"`
}

// String is how people write it; "" for what says nothing, as attestations of
// BuildKit's do, or is no platform.
func (p platform) String() string {
	words := []string{p.OS, p.Architecture}
	if p.Variant != "" {
		words = append(words, p.Variant)
	}
	for _, word := range words {
		if word == "" || word == "unknown" || len(word) > 40 || strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "" {
			return ""
		}
	}
	return strings.Join(words, "/")
}

// isFor notes a platform of an image.
func (m *Manifest) isFor(p platform) {
	if text := p.String(); text != "" && len(m.Platforms) < MaxPlatforms && !slices.Contains(m.Platforms, text) {
		m.Platforms = append(m.Platforms, text)
	}
}

// readPlatform has an image say for which platform it is: that is in its config,
// which is a blob. What can't be read says nothing: people see less then, and
// nothing else depends on it.
func (s *Service) readPlatform(ctx context.Context, p Place, m *Manifest) {
	if m.config == "" {
		return
	}
	of, err := s.platformOf(ctx, p, m.config)
	if err != nil {
		s.log.DebugContext(ctx, "for which platform an image is can't be read", "digest", m.Digest, "error", err)
		return
	}
	m.isFor(of)
}

func (s *Service) platformOf(ctx context.Context, p Place, config Digest) (of platform, err error) {
	b, err := s.Blob(ctx, p, config)
	if err != nil {
		return of, err
	}
	if b.Size > maxConfig {
		return of, fmt.Errorf("the config has %d bytes", b.Size)
	}
	c, err := s.Open(ctx, p, b, 0, b.Size)
	if err != nil {
		return of, err
	}
	defer c.Close()
	text, err := io.ReadAll(c)
	if err != nil {
		return of, fmt.Errorf("read a config: %w", err)
	}
	if err := json.Unmarshal(text, &of); err != nil {
		return of, fmt.Errorf("read a config: %w", err)
	}
	return of, nil
}
