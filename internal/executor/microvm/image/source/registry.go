package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/nimbus-ci/nimbus"
)

// Timeouts of a registry. The whole of a conversion has a bound of its own.
const (
	dialTimeout   = 15 * time.Second
	headerTimeout = 30 * time.Second
)

// Canonical is a reference with all that people leave out:
// index.docker.io/library/python:3.12. Codes: invalid.
func Canonical(reference string) (string, error) {
	ref, err := name.ParseReference(strings.TrimPrefix(reference, kindRegistry))
	if err != nil {
		return "", nimbus.Errorf(nimbus.CodeInvalid, "%q names no image of a registry: %w", reference, err).
			WithHint("it looks like python:3.12 or ghcr.io/owner/name@sha256:…")
	}
	return ref.Name(), nil
}

// IsDigest tells whether a reference always means the same image.
func IsDigest(reference string) bool {
	_, err := name.NewDigest(strings.TrimPrefix(reference, kindRegistry))
	return err == nil
}

// registry opens an image of a registry. Who we are there is told by docker's
// configuration ($DOCKER_CONFIG, ~/.docker) and its helpers.
func (o Opener) registry(ctx context.Context, reference string) (*Image, error) {
	ref, err := name.ParseReference(reference)
	if err != nil {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "that names no image of a registry: %w", err)
	}
	desc, err := remote.Get(ref, o.options(ctx)...)
	if err != nil {
		return nil, reason(err)
	}
	img, err := desc.Image()
	if err != nil {
		return nil, reason(err)
	}
	return &Image{image: img, packed: true}, nil
}

func (o Opener) options(ctx context.Context) []remote.Option {
	return []remote.Option{
		remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithUserAgent("nimbus"),
		remote.WithPlatform(v1.Platform{OS: "linux", Architecture: o.Arch}), remote.WithTransport(shortManifests{newGuarded(o.Named)}),
	}
}

// shortManifests bounds what a registry can make us keep in memory.
type shortManifests struct{ http.RoundTripper }

func (s shortManifests) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := s.RoundTripper.RoundTrip(r)
	if err == nil && !strings.Contains(r.URL.Path, "/blobs/") && answer.Header.Get("Location") == "" && strings.Contains(r.URL.Path, "/manifests/") {
		answer.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(answer.Body, maxDocument), answer.Body}
	}
	return answer, err
}

// reason gives a registry's refusal a code and a hint.
func reason(err error) error {
	if err == nil {
		return nil
	}
	var ours *nimbus.Error
	if errors.As(err, &ours) {
		return err
	}
	var private *insideError
	if errors.As(err, &private) {
		return private.refusal()
	}
	var refused *transport.Error
	if !errors.As(err, &refused) {
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		var file *fs.PathError // whose cause looks like one of a network
		if errors.As(err, &file) {
			if errors.Is(err, fs.ErrNotExist) {
				return broken("%s is missing", filepath.Base(file.Path))
			}
			return fmt.Errorf("read image: %w", err)
		}
		var network net.Error
		if errors.As(err, &network) {
			return nimbus.Errorf(nimbus.CodeUnavailable, "the registry can't be reached: %w", err).
				WithHint("is the name right, and may this host reach it?")
		}
		return fmt.Errorf("read image: %w", err)
	}
	switch refused.StatusCode {
	case http.StatusNotFound:
		return nimbus.Errorf(nimbus.CodeNotFound, "the registry has no such image").
			WithHint("check its name and tag")
	case http.StatusUnauthorized, http.StatusForbidden:
		return nimbus.Errorf(nimbus.CodeNotFound, "the registry shows no such image to this host").
			WithHint("check its name; a private one needs a login in the docker configuration of the agent's user")
	case http.StatusTooManyRequests:
		return nimbus.Errorf(nimbus.CodeUnavailable, "the registry says that this host has asked too often").
			WithHint("log in to it, or import the image: nimbus images import")
	}
	return nimbus.Errorf(nimbus.CodeUnavailable, "the registry answered %d", refused.StatusCode)
}
