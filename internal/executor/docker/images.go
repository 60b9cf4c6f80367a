package docker

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/ahead"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/source"
)

const (
	// pullTimeout bounds the fetching of an image.
	pullTimeout = 20 * time.Minute
	// lookupTimeout bounds the question what a tag means now.
	lookupTimeout = time.Minute
	// parallel is how many are fetched or imported at once.
	parallel = 2
	// Bounds of the variables that an image sets.
	maxEnv      = 256
	maxEnvBytes = 64 << 10
)

// picture is an image in the daemon, by the digest of its configuration: what a
// name means may change while a job is made of it.
type picture struct {
	id      string
	env     []string // KEY=VALUE
	volumes []string // folders that it wants to be writable
}

// images are those of the daemon.
type images struct {
	daemon *daemon
	cfg    Config
	slots  chan struct{}

	fetched *fetched
	ahead   *ahead.Keeper

	mu     sync.Mutex
	lookup map[string]time.Time // when a tag was looked up last, by its canonical name
}

func newImages(d *daemon, cfg Config) *images {
	i := &images{daemon: d, cfg: cfg, slots: make(chan struct{}, parallel), lookup: map[string]time.Time{},
		fetched: newFetched(filepath.Join(cfg.Dir, "fetched"))}
	i.ahead = ahead.New(ahead.Config{File: filepath.Join(cfg.Dir, "asked.json"), Always: cfg.Ahead, Fetch: i.fetchAhead, Log: cfg.Log})
	return i
}

// fetchAhead has an image be here that no job has asked for now.
func (i *images) fetchAhead(ctx context.Context, name string) error {
	g := i.fetched.grip()
	defer g.release()
	_, err := i.find(ctx, g, name, ahead.Soon(i.cfg.Refresh), func(string) {})
	return err
}

// KeepImages implements executor.Fetcher.
func (e *Executor) KeepImages(ctx context.Context, may func() bool) { e.images.ahead.Run(ctx, may) }

// get finds the image that a job names, or fetches it, which may take minutes
// and is told in words. It stays while g is held. Codes: not_found, forbidden,
// invalid, too_large, unavailable.
func (i *images) get(ctx context.Context, g *grip, what string, tell func(string)) (picture, error) {
	p, err := i.find(ctx, g, what, i.cfg.Refresh, tell)
	if err == nil {
		i.ahead.Used(what)
		i.fetched.used(p.id)
	}
	return p, err
}

// find is get of an image whose tag is looked up again after some time.
func (i *images) find(ctx context.Context, g *grip, what string, refresh time.Duration, tell func(string)) (picture, error) {
	built, err := i.cfg.Built.Open(what)
	if err == nil {
		return i.builtIn(ctx, g, built, tell)
	}
	if nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		return picture{}, err
	}
	canonical, err := i.cfg.Catalog.Resolve(what, i.cfg.Built.Names)
	if err != nil {
		return picture{}, err
	}
	reference := familiar(canonical)
	if err := g.keep(ctx, reference); err != nil {
		return picture{}, err
	}
	p, digests, err := i.inspect(ctx, reference)
	have := err == nil
	switch {
	case !have && nimbus.ErrorCode(err) != nimbus.CodeNotFound:
		return picture{}, err
	case have && (len(digests) == 0 || source.IsDigest(canonical) || i.fresh(reference, refresh)):
		return p, nil // without digests it never was in a registry
	}
	stale := func(err error) (picture, error) {
		tell(fmt.Sprintf("image %s could not be looked up again, the one that is here is used: %v", reference, err))
		return p, nil
	}
	if p, ok := i.mirrored(ctx, g, canonical, tell); ok {
		return p, nil
	}
	// The daemon asks whoever it is told to, from the host's own network.
	if err := source.CheckRegistry(ctx, canonical, i.cfg.Catalog.Named(canonical)); err != nil {
		if have && ctx.Err() == nil {
			return stale(err)
		}
		return picture{}, err
	}
	fetched, err := i.fetch(ctx, g, reference, reference, tell)
	if err != nil && have && nimbus.ErrorCode(err) == nimbus.CodeUnavailable && ctx.Err() == nil {
		return stale(err)
	}
	return fetched, err
}

func (i *images) fresh(reference string, refresh time.Duration) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	at, ok := i.lookup[reference]
	return ok && time.Since(at) < refresh
}

// maxLookups bounds what is remembered: names are the tenants' choice.
const maxLookups = 4096

func (i *images) looked(reference string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.lookup) >= maxLookups {
		clear(i.lookup)
	}
	i.lookup[reference] = time.Now()
}

// inspect looks at an image of the daemon, and under which digests registries
// have it.
func (i *images) inspect(ctx context.Context, reference string) (picture, []string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := i.daemon.api.ImageInspect(ctx, reference)
	if errdefs.IsNotFound(err) {
		return picture{}, nil, nimbus.Errorf(nimbus.CodeNotFound, "image %s is not on this host", reference).WithHint("docker images lists those that are")
	}
	if err != nil {
		return picture{}, nil, fmt.Errorf("look at image %s: %w", reference, i.daemon.reason(err))
	}
	p := picture{id: r.ID}
	if r.Os != "linux" || r.Architecture != runtime.GOARCH {
		return p, nil, nimbus.Errorf(nimbus.CodeInvalid, "image %s is for %s/%s, this host is linux/%s", reference, r.Os, r.Architecture, runtime.GOARCH)
	}
	if r.Config != nil {
		if p.env, err = environment(r.Config.Env); err == nil {
			p.volumes, err = volumesOf(r.Config.Volumes)
		}
		if err != nil {
			return p, nil, fmt.Errorf("image %s: %w", reference, err)
		}
	}
	return p, r.RepoDigests, nil
}

// environment takes over what an image sets for every process in it.
func environment(list []string) (kept []string, err error) {
	size := 0
	for _, pair := range list {
		if key, _, ok := strings.Cut(pair, "="); ok && key != "" && !strings.ContainsRune(pair, 0) {
			size += len(pair)
			kept = append(kept, pair)
		}
	}
	if len(kept) > maxEnv || size > maxEnvBytes {
		return nil, nimbus.Errorf(nimbus.CodeTooLarge, "it sets %d variables of %d bytes; the most are %d of %d", len(kept), size, maxEnv, maxEnvBytes)
	}
	return kept, nil
}

// fetch gets what a reference means now, by digest, unless that is here under
// another name. It is asked for at its registry, or as what a mirror calls it.
func (i *images) fetch(ctx context.Context, g *grip, reference, at string, tell func(string)) (picture, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, pullTimeout, nimbus.Errorf(nimbus.CodeUnavailable, "image %s was not fetched within %s", reference, pullTimeout))
	defer cancel()
	leave, err := i.enter(ctx, tell)
	if err != nil {
		return picture{}, err
	}
	defer leave()
	auth, err := login(at)
	if err != nil {
		return picture{}, err
	}
	exact := at
	if !source.IsDigest(at) {
		tell("looking up image " + at)
		digest, err := i.digest(ctx, at, auth)
		if err != nil {
			return picture{}, err
		}
		exact = repository(at) + "@" + digest
	}
	p, known, err := i.present(ctx, g, repository(reference)+exact[strings.LastIndexByte(exact, '@'):], exact)
	here := nimbus.ErrorCode(err) != nimbus.CodeNotFound
	if !here {
		if err := i.pull(ctx, at, exact, auth, tell); err != nil {
			return picture{}, err
		}
		p, _, err = i.inspect(ctx, exact)
	}
	if err != nil {
		return picture{}, err
	}
	names := []string{known}
	if !source.IsDigest(reference) {
		// So that it is found when the registry is away.
		if _, err := i.daemon.api.ImageTag(ctx, client.ImageTagOptions{Source: p.id, Target: reference}); err != nil {
			return picture{}, fmt.Errorf("name image %s: %w", reference, i.daemon.reason(err))
		}
		i.looked(reference)
		names = []string{reference, known}
	}
	i.noteFetched(ctx, p, here, names...)
	return p, nil
}

// present looks for an image under the names that it has in the daemon by its
// digest, of its registry and of a mirror, and keeps them. It returns the one that
// it has, or is to have: the last.
func (i *images) present(ctx context.Context, g *grip, own, exact string) (p picture, known string, err error) {
	for _, known = range slices.Compact([]string{own, exact}) {
		if err := g.keep(ctx, known); err != nil {
			return picture{}, known, err
		}
		if p, _, err = i.inspect(ctx, known); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
			break
		}
	}
	return p, known, err
}

// digest is what a tag means now.
func (i *images) digest(ctx context.Context, at, auth string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, lookupTimeout, nimbus.Errorf(nimbus.CodeUnavailable, "image %s was not found out about within %s", at, lookupTimeout))
	defer cancel()
	r, err := i.daemon.api.DistributionInspect(ctx, at, client.DistributionInspectOptions{EncodedRegistryAuth: auth})
	if err != nil {
		return "", i.refusal(ctx, at, err)
	}
	return r.Descriptor.Digest.String(), nil
}

// enter waits until few others are being fetched.
func (i *images) enter(ctx context.Context, tell func(string)) (leave func(), err error) {
	select {
	case i.slots <- struct{}{}:
	default:
		tell("waiting for other images to be fetched")
		select {
		case i.slots <- struct{}{}:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return func() { <-i.slots }, nil
}

// tellInterval is how often it is told how far a pull is.
const tellInterval = 5 * time.Second

func (i *images) pull(ctx context.Context, reference, exact, auth string, tell func(string)) error {
	tell("pulling image " + exact)
	stream, err := i.daemon.api.ImagePull(ctx, exact, client.ImagePullOptions{RegistryAuth: auth})
	if err != nil {
		return i.refusal(ctx, reference, err)
	}
	defer stream.Close()
	layers := map[string][2]int64{} // bytes that are here, and in all
	told := time.Now()
	for message, err := range stream.JSONMessages(ctx) {
		if err != nil {
			return i.refusal(ctx, reference, err)
		}
		if message.Error != nil {
			return i.refusal(ctx, reference, message.Error)
		}
		if message.Progress != nil && message.Progress.Total > 0 && len(layers) < maxLayers {
			layers[message.ID+message.Status] = [2]int64{message.Progress.Current, message.Progress.Total}
		}
		if time.Since(told) > tellInterval {
			tell(progress(exact, layers))
			told = time.Now()
		}
	}
	return nil
}

const maxLayers = 1024

// progress is how far a pull is, in words.
func progress(reference string, layers map[string][2]int64) string {
	var here, all int64
	for _, l := range layers {
		here, all = here+l[0], all+l[1]
	}
	if all == 0 {
		return "pulling image " + reference
	}
	return fmt.Sprintf("pulling image %s: %d of %d MiB", reference, here>>20, all>>20)
}

// refusal says why an image can't be had. The daemon passes on what a registry
// said, as text where it had begun to answer: that may be anybody's to whom the
// registry has sent it, and is for the operator.
func (i *images) refusal(ctx context.Context, reference string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if client.IsErrConnectionFailed(err) {
		return i.daemon.reason(err)
	}
	i.cfg.Log.WarnContext(ctx, "an image was not fetched", "image", reference, "error", err)
	said := err.Error()
	says := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(said, w) })
	}
	switch {
	case errdefs.IsNotFound(err), says("manifest unknown", "not found", "does not exist"):
		return nimbus.Errorf(nimbus.CodeNotFound, "there is no image %s", reference).WithHint("look at its name and tag; a private one needs a login in docker's configuration of the agent's user")
	case errdefs.IsUnauthorized(err), errdefs.IsPermissionDenied(err), says("unauthorized", "denied"):
		return nimbus.Errorf(nimbus.CodeForbidden, "the registry does not give image %s to this host", reference).WithHint("log in: docker login, as the agent's user")
	case says("no matching manifest", "no match for platform"):
		return nimbus.Errorf(nimbus.CodeInvalid, "image %s is not for linux/%s", reference, runtime.GOARCH)
	}
	return nimbus.Errorf(nimbus.CodeUnavailable, "image %s can't be fetched", reference).WithHint("the host's agent has logged what its daemon said")
}

// repository is a reference without tag and digest.
func repository(reference string) string {
	reference, _, _ = strings.Cut(reference, "@")
	if i := strings.LastIndexByte(reference, ':'); i > strings.LastIndexByte(reference, '/') {
		reference = reference[:i]
	}
	return reference
}

// login is what docker's configuration of this user has for a registry, as the
// daemon wants it.
func login(reference string) (string, error) {
	ref, err := name.ParseReference(reference)
	if err != nil {
		return "", nimbus.Errorf(nimbus.CodeInvalid, "%q names no image of a registry: %w", reference, err)
	}
	known, err := authn.DefaultKeychain.Resolve(ref.Context())
	if err != nil {
		return "", fmt.Errorf("find a login for %s: %w", ref.Context().RegistryStr(), err)
	}
	if known == authn.Anonymous {
		return "", nil
	}
	cfg, err := known.Authorization()
	if err != nil {
		return "", fmt.Errorf("find a login for %s: %w", ref.Context().RegistryStr(), err)
	}
	encoded, err := authconfig.Encode(registry.AuthConfig{
		Username: cfg.Username, Password: cfg.Password, Auth: cfg.Auth, IdentityToken: cfg.IdentityToken, RegistryToken: cfg.RegistryToken,
		ServerAddress: ref.Context().RegistryStr(),
	})
	if err != nil {
		return "", errors.New("encode the login of a registry") // not with what it is
	}
	return encoded, nil
}
