package registry

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/registry/upstream"
)

// Mirrored answers one request for a repository of a mirror: by what is here, by
// what it fetches, or, where upstream can't be asked, by what was here before.
type Mirrored struct {
	service *Service
	mirror  *mirror
	place   Place  // in the account of mirrors
	at      string // the repository at the upstream
	look    bool   // nobody wants the content of a blob

	stale error // why what was answered may be old
}

// Mirror is who answers for a repository that is in a mirror; nil for one of the
// org's own. look is set where it is only asked whether something is there. Codes:
// forbidden for what the mirror does not allow.
func (s *Service) Mirror(ctx context.Context, p Place, look bool) (*Mirrored, error) {
	m, rest, err := s.mirror(ctx, p)
	if m == nil || err != nil {
		return nil, err
	}
	if m.Clearing {
		err := nimbus.Errorf(nimbus.CodeUnavailable, "what the mirror %s had of before is being removed", m.Name).
			WithHint("where that does not end it was broken off: an admin of the org sets the mirror again (nimbus registry mirror add %s), or removes it", m.Name)
		err.RetryAfter = mirrorsFor
		return nil, err
	}
	if m.Name == dockerHub && !strings.Contains(rest, "/") {
		rest = "library/" + rest
	}
	if !m.allows(rest) {
		s.observer.Mirrored("any", "refused")
		return nil, &RefusalError{Denied, nimbus.Errorf(nimbus.CodeForbidden, "the mirror %s does not give %.200s", m.Name, rest).
			WithHint("an admin of the org can have it do so: nimbus registry mirror add %s --also …", m.Name)}
	}
	return &Mirrored{service: s, mirror: m, place: Place{MirrorAccount(p.OrgID), m.Name + "/" + rest}, at: rest, look: look}, nil
}

// NoPush is the refusal of whatever would change a mirror.
func (m *Mirrored) NoPush() error {
	return &RefusalError{Denied, nimbus.Errorf(nimbus.CodeForbidden, "%s is a mirror: what is in it comes from %s, and nobody pushes or removes anything", m.mirror.Name, m.mirror.Upstream).
		WithHint("push to a repository of another name")}
}

// Stale tells whether what was answered may be old, since the upstream could not
// be asked.
func (m *Mirrored) Stale() bool { return m.stale != nil }

// client is who asks the upstream, if that may be asked now.
func (m *Mirrored) client(ctx context.Context) (*upstream.Client, error) {
	if pause := m.mirror.pause(m.service.clock.Now()); pause > 0 {
		return nil, m.limited(pause)
	}
	return m.mirror.client(ctx)
}

// manifests is client for who wants a manifest whole.
func (m *Mirrored) manifests(ctx context.Context) (*upstream.Client, error) {
	if pause := m.mirror.saves(m.service.clock.Now()); pause > 0 {
		return nil, m.limited(pause)
	}
	return m.client(ctx)
}

func (m *Mirrored) limited(pause time.Duration) error {
	err := nimbus.Errorf(nimbus.CodeRateLimited, "the upstream of the mirror %s has been asked too often, and wants a pause", m.mirror.Name).
		WithHint("with a login of its own (nimbus registry mirror add %s --username … --password-file …) it usually gives more", m.mirror.Name)
	err.RetryAfter = pause
	return &RefusalError{TooManyRequests, err}
}

// heard notes how the upstream has answered, and tells that as the registry does.
// missing is what is told where the upstream has no such thing.
func (m *Mirrored) heard(ctx context.Context, err, missing error) error {
	var of *upstream.Error
	if err != nil && !errors.As(err, &of) {
		return err // ours
	}
	if err != nil && (errors.Is(ctx.Err(), context.Canceled) || m.service.mirrors.fills.ctx.Err() != nil) {
		return m.ended(ctx) // who wanted it has gone, or we have
	}
	if of != nil && of.Kind == upstream.Limited {
		m.mirror.heard(m.service.clock.Now().Add(of.After))
	}
	m.service.answered(ctx, m.mirror, err)
	if of == nil {
		return nil
	}
	switch of.Kind {
	case upstream.Unknown:
		return missing
	case upstream.Denied:
		return &RefusalError{Denied, nimbus.Errorf(nimbus.CodeForbidden, "the upstream of the mirror %s refuses %.200s: %w", m.mirror.Name, m.at, err).
			WithHint("it may not exist, or need a login: nimbus registry mirror add %s --username … --password-file …", m.mirror.Name)}
	case upstream.Limited:
		return m.limited(of.After)
	case upstream.Inside:
		return nimbus.Errorf(nimbus.CodeUnavailable, "the upstream of the mirror %s may not be asked: %w", m.mirror.Name, err).
			WithHint("the server's operator can name it: --registry-mirror-inside HOST:PORT")
	case upstream.Broken:
		return nimbus.Errorf(nimbus.CodeUnavailable, "the upstream of the mirror %s can't give %.200s: %w", m.mirror.Name, m.at, err)
	case upstream.Away:
	}
	return nimbus.Errorf(nimbus.CodeUnavailable, "the upstream of the mirror %s can't be asked: %w", m.mirror.Name, err)
}

// unusable is the error of an upstream that gives something else than it should.
func (m *Mirrored) unusable(what string, err error) error {
	return nimbus.Errorf(nimbus.CodeUnavailable, "what the upstream of the mirror %s gives as %.200s can't be used: %w", m.mirror.Name, what, err)
}

// outage tells whether an error says nothing of what was asked for: then what is
// here is still the best that is known.
func outage(err error) bool {
	code := nimbus.ErrorCode(err)
	return err != nil && (code == nimbus.CodeUnavailable || code == nimbus.CodeRateLimited)
}

// told notes what became of a request.
func (m *Mirrored) told(kind string, err error, otherwise string) {
	if err != nil {
		otherwise = "refused"
	}
	m.service.observer.Mirrored(kind, otherwise)
}

// Pulled notes that a manifest was pulled.
func (m *Mirrored) Pulled(_ Place, digest Digest) { m.service.Pulled(m.place, digest) }

// Referrers are not mirrored: clients then look for a tag that is named after the
// digest, which is.
func (m *Mirrored) Referrers(context.Context, Place, Digest, string, Digest) ([]Manifest, Digest, error) {
	return nil, "", Refuse(Unsupported, nimbus.CodeNotFound, "a mirror has no list of referrers: look for the tag sha256-DIGEST")
}

// Tags are the upstream's, or, where that can't be asked, those that are here.
func (m *Mirrored) Tags(ctx context.Context, _ Place, after string, most int) (tags []string, more bool, err error) {
	most = max(0, min(most, MaxPage))
	tags, more, err = m.askTags(ctx, after, most)
	if outage(err) {
		m.stale = err
		if tags, err = m.service.store.RegistryMirrorTags(ctx, m.place, after, most+1); err != nil {
			return nil, false, fmt.Errorf("list tags: %w", err)
		}
	}
	// Some registries know no pages.
	for i, tag := range tags {
		if tag == after {
			tags = tags[i+1:]
			break
		}
	}
	if len(tags) > most {
		tags, more = tags[:most], true
	}
	return tags, more, err
}

func (m *Mirrored) askTags(ctx context.Context, after string, most int) (tags []string, more bool, err error) {
	leave, err := m.question()
	if err != nil {
		return nil, false, err
	}
	defer leave()
	c, err := m.client(ctx)
	if err != nil {
		return nil, false, err
	}
	tags, more, err = c.Tags(ctx, m.at, after, most)
	return tags, more, m.heard(ctx, err, Refuse(NameUnknown, nimbus.CodeNotFound, "the upstream has no repository %s", m.at))
}
