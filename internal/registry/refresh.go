package registry

import (
	"context"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/nimbus-ci/nimbus"
)

// asks are the questions that upstreams are asked now: one for all who wait.
type asks struct{ flights singleflight.Group }

// askFor is how long one question may take, whoever still waits.
const askFor = 2 * time.Minute

// Manifest is a manifest by its digest or a tag. By its digest it is from here if it
// is here at all. What a tag stands for is asked anew once it is older than
// Limits.Fresh. Codes: not_found, invalid, forbidden, rate_limited, unavailable.
func (m *Mirrored) Manifest(ctx context.Context, _ Place, reference string) (Manifest, error) {
	if strings.Contains(reference, ":") {
		return m.byDigest(ctx, reference)
	}
	if err := CheckTag(reference); err != nil {
		return Manifest{}, err
	}
	s := m.service
	here, age, err := m.here(ctx, reference)
	missing := here.Digest == ""
	if err != nil {
		return Manifest{}, err
	}
	if !missing && age < s.limits.Fresh {
		m.told("manifest", nil, "hit")
		return here, nil
	}
	got, err := m.now(ctx, reference, missing)
	if !missing && outage(err) {
		m.stale = err
		m.told("manifest", nil, "stale")
		s.log.InfoContext(ctx, "a mirror serves what a tag was: upstream can't be asked", "mirror", m.mirror.Name, "repo", m.at, "tag", reference,
			"age", age.Round(time.Second), "error", err)
		return here, nil
	}
	m.told("manifest", err, "fetched")
	return got, err
}

// now asks what a tag stands for. Who can have what it was has patience, and none where
// the upstream could not be asked a moment ago.
func (m *Mirrored) now(ctx context.Context, tag string, missing bool) (Manifest, error) {
	renew := func(ctx context.Context) (Manifest, error) { return m.renew(ctx, tag) }
	if missing {
		return m.ask(ctx, "tag "+tag, renew)
	}
	clock := m.service.clock
	if m.mirror.away(clock.Now()) {
		return Manifest{}, nimbus.Errorf(nimbus.CodeUnavailable, "the upstream of the mirror %s could not be asked a moment ago", m.mirror.Name)
	}
	waits, cancel := context.WithTimeoutCause(ctx, m.service.limits.Patience, nimbus.Errorf(nimbus.CodeUnavailable, "the upstream of the mirror %s takes long to answer", m.mirror.Name))
	defer cancel()
	got, err := m.ask(waits, "tag "+tag, renew)
	if err != nil && waits.Err() != nil && ctx.Err() == nil {
		m.mirror.hangs(clock.Now()) // whoever comes now waits no more for it
	}
	return got, err
}

// here is what a tag stood for when that was last asked, and how long ago that was;
// the zero Manifest if that is not here.
func (m *Mirrored) here(ctx context.Context, tag string) (here Manifest, age time.Duration, err error) {
	digest, age, err := m.service.store.RegistryMirrorTag(ctx, m.place, tag)
	if err == nil {
		here, err = m.service.Manifest(ctx, m.place, string(digest))
	}
	if err != nil && nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		return Manifest{}, 0, fmt.Errorf("look up a tag of a mirror: %w", err)
	}
	return here, age, nil
}

func (m *Mirrored) byDigest(ctx context.Context, reference string) (Manifest, error) {
	digest, err := ParseDigest(reference)
	if err != nil {
		return Manifest{}, err
	}
	got, err := m.service.Manifest(ctx, m.place, reference)
	if nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		m.told("manifest", err, "hit")
		return got, err
	}
	got, err = m.ask(ctx, reference, func(ctx context.Context) (Manifest, error) {
		got, err := m.service.Manifest(ctx, m.place, reference)
		if nimbus.ErrorCode(err) != nimbus.CodeNotFound { // somebody else has asked since it was looked for
			return got, err
		}
		return m.fetch(ctx, reference, digest, "")
	})
	m.told("manifest", err, "fetched")
	return got, err
}

// ask has one of many who want the same ask for it. The question goes on when who
// asked first does not wait any more.
func (m *Mirrored) ask(ctx context.Context, what string, do func(context.Context) (Manifest, error)) (Manifest, error) {
	key := fmt.Sprintf("%s %s %d %s", m.place.OrgID, m.place.Repo, m.mirror.Changed, what)
	answers := m.service.mirrors.asks.flights.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askFor)
		defer cancel()
		leave, err := m.question()
		if err != nil {
			return Manifest{}, err
		}
		defer leave()
		return do(ctx)
	})
	select {
	case <-ctx.Done():
		return Manifest{}, fmt.Errorf("wait for an upstream: %w", context.Cause(ctx))
	case a := <-answers:
		got, _ := a.Val.(Manifest)
		return got, a.Err //nolint:wrapcheck // do's errors are ours
	}
}

// question has a share of what upstreams are asked at once, or is refused at once: who
// waited would take as much as a question does.
func (m *Mirrored) question() (leave func(), err error) {
	q, orgID, name := m.service.mirrors.questions, m.mirror.OrgID, m.mirror.Name
	if why := q.try(orgID, name); why != noBound {
		return nil, m.busy(why, questionShares, "manifests, lists of tags or sizes of layers are asked for already at")
	}
	return func() { q.release(orgID, name) }, nil
}

// renew asks what a tag stands for now. Where it is here what that was, its name is
// asked for first, which costs no pull.
func (m *Mirrored) renew(ctx context.Context, tag string) (Manifest, error) {
	here, age, err := m.here(ctx, tag)
	switch {
	case err != nil:
		return Manifest{}, err
	case here.Digest == "":
		return m.fetch(ctx, tag, "", tag)
	case age < m.service.limits.Fresh: // somebody else has asked since it was looked for
		return here, nil
	}
	c, err := m.client(ctx)
	if err != nil {
		return Manifest{}, err
	}
	now, err := c.Name(ctx, m.at, tag, string(here.Digest))
	if err := m.heard(ctx, err, NoManifest(tag)); err != nil {
		return Manifest{}, m.gone(ctx, tag, err)
	}
	if !now.Unchanged && now.Digest != string(here.Digest) {
		return m.fetch(ctx, tag, "", tag)
	}
	if err := m.service.store.RenewRegistryMirrorTag(ctx, m.place, tag, here.Digest); err != nil {
		return Manifest{}, fmt.Errorf("note that a tag is what it was: %w", err)
	}
	return here, nil
}

// gone forgets a tag that the upstream has no more.
func (m *Mirrored) gone(ctx context.Context, tag string, err error) error {
	if tag != "" && nimbus.ErrorCode(err) == nimbus.CodeNotFound {
		if err := m.service.store.DropRegistryTag(ctx, m.place, tag, nimbus.AuditEvent{}); err != nil && nimbus.ErrorCode(err) != nimbus.CodeNotFound {
			return fmt.Errorf("forget a tag: %w", err)
		}
	}
	return err
}

// fetch gets a manifest, and keeps it. digest is what it has to be, "" where that is
// not known; tag is what is to stand for it, "" for none.
func (m *Mirrored) fetch(ctx context.Context, reference string, digest Digest, tag string) (Manifest, error) {
	c, err := m.manifests(ctx)
	if err != nil {
		return Manifest{}, err
	}
	got, err := c.Manifest(ctx, m.at, reference, MaxManifest)
	if err := m.heard(ctx, err, NoManifest(reference)); err != nil {
		return Manifest{}, m.gone(ctx, tag, err)
	}
	m.service.observer.Fetched(int64(len(got.Content)))
	if digest == "" {
		// What it says is checked, too. What it does not say is told by the content.
		digest, _ = ParseDigest(got.Digest)
	}
	parsed, err := ParseManifest(got.Content, got.MediaType, digest)
	if err != nil {
		return Manifest{}, m.unusable("the manifest "+reference, err)
	}
	parsed = mirroredManifest(parsed)
	var tags []string
	if tag != "" {
		tags = []string{tag}
	}
	s := m.service
	if err := s.spare(parsed.Size); err != nil {
		return Manifest{}, err
	}
	if err := s.reserve(ctx, m.place.OrgID, parsed.Size); err != nil {
		return Manifest{}, err
	}
	defer s.unclaim(m.place.OrgID, parsed.Size)
	if err := s.store.PutRegistryMirrored(ctx, m.mirror.MirrorKey, m.place, parsed, tags, s.limits.of(m.place.OrgID)); err != nil {
		return Manifest{}, fmt.Errorf("keep a manifest of a mirror: %w", err)
	}
	return parsed, nil
}

// mirroredManifest is one as a mirror keeps it: what it says about another manifest
// counts for nothing here, where it may not be.
func mirroredManifest(m Manifest) Manifest {
	m.Subject, m.Annotations = "", nil
	return m
}
