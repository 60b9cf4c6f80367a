package registry

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/registry/upstream"
)

// What mirrors fetch is kept like what is pushed, but in books of its own: an org's
// mirrored content is that of an account beside it, which has a quota of its own
// and makes room by itself. Nothing is shared with what the org pushed, nor with
// other orgs.

// mirrorAccount is what the name of an account has behind that of its org. No id
// of an org ends so.
const mirrorAccount = ".mirror"

// MirrorAccount is the account of an org's mirrored content.
func MirrorAccount(orgID string) string { return orgID + mirrorAccount }

// IsMirrored tells whether something is kept in the account of a mirror.
func IsMirrored(account string) bool { return strings.HasSuffix(account, mirrorAccount) }

// of are the limits of an account.
func (l Limits) of(account string) Limits {
	if IsMirrored(account) {
		l.Org = l.Mirror
	}
	return l
}

// MirrorKey names a mirror, and what it was set to: where a mirror leads somewhere
// else than when something was asked for, what comes is not kept.
type MirrorKey struct {
	OrgID, Mirror string
	Since         int64 // as the store has it: microseconds
}

// MirrorRow is a mirror as it is kept.
type MirrorRow struct {
	MirrorKey
	nimbus.ImageMirror

	Secret  string // the name of its password; "" for none
	Changed int64  // grows with each change
	// Limited is until when it wants not to be asked, Spent until when it gives no more
	// manifests: ImageMirror has the later one.
	Limited, Spent time.Time
	// Clearing: what is here of where it led before is being removed, or that was
	// broken off. Nothing of it is given.
	Clearing bool
}

// MirrorNote is how a mirror does.
type MirrorNote struct {
	Failure        string // why its upstream can't be asked, "" for that it can
	Limited, Spent time.Duration
}

// Secrets keeps passwords, sealed. See identity.Secrets.
type Secrets interface {
	Put(ctx context.Context, orgID, name string, secret []byte, e nimbus.AuditEvent) error
	Get(ctx context.Context, orgID, name string) ([]byte, error)
	Delete(ctx context.Context, orgID, name string, e nimbus.AuditEvent) error
}

// MirrorObserver hears what mirrors do. Its methods return at once.
type MirrorObserver interface {
	// Mirrored: somebody asked a mirror for a manifest or a blob, which was here
	// (hit), was fetched, was given though upstream could not be asked (stale), or
	// could not be had (refused).
	Mirrored(kind, outcome string)
	// Fetched: so many bytes came from upstreams.
	Fetched(bytes int64)
}

type nobodyHears struct{}

func (nobodyHears) Mirrored(string, string) {}
func (nobodyHears) Fetched(int64)           {}

const (
	// mirrorsFor is how long is believed which mirrors an org has.
	mirrorsFor = time.Second
	// mostMirrors is how many an org may have.
	mostMirrors = 50
	// fillsWaiting is how many blobs may come or wait for that, fillsWaitingOfOrg how
	// many of one org. fillsWaitingSpared more are for orgs of which none does: for each
	// the first.
	fillsWaiting, fillsWaitingOfOrg, fillsWaitingSpared = 4096, 512, 4096
	// awayFor is how long an upstream that could not be asked is not asked for what
	// is here.
	awayFor = 15 * time.Second
)

// fillShares are how many blobs come at once, questionShares how many manifests and
// lists of tags are asked for, each of which takes up to 4 MiB of memory.
var (
	fillShares     = shares{ofMirror: 12, ofOrg: 16, all: 64, spared: 16}
	questionShares = shares{ofMirror: 24, ofOrg: 32, all: 256, spared: 64}
)

// mirrors is what this replica knows of mirrors, and has under way.
type mirrors struct {
	line      *upstream.Line
	slots     *slots
	questions *slots

	mu   sync.Mutex
	orgs map[string]*mirrorsOf // by the org's id

	fills fills
	asks  asks
}

type mirrorsOf struct {
	asked  time.Time
	byName map[string]*mirror
}

// mirror is one as this replica uses it.
type mirror struct {
	MirrorRow

	client func(context.Context) (*upstream.Client, error) // made once it is needed

	mu             sync.Mutex
	limited, spent pause
	awayUntil      time.Time
	failure        string
	written        time.Time // when the failure was last written down
}

// pause is one that an upstream wants, by this replica's clock.
type pause struct{ until, told time.Time } // told: what other replicas know of

// hear notes that it is longer.
func (p *pause) hear(until time.Time) {
	if until.After(p.until) {
		p.until = until
	}
}

// learn notes what others have told.
func (p *pause) learn(until time.Time) {
	p.hear(until)
	if until.After(p.told) {
		p.told = until
	}
}

// pauseSlack is how much longer a pause gets without others being told.
const pauseSlack = 5 * time.Second

// news tells whether others don't know of it.
func (p *pause) news() bool { return p.until.After(p.told.Add(pauseSlack)) }

func (p *pause) left(now time.Time) time.Duration { return max(0, p.until.Sub(now)) }

// splitMirror takes the name of a mirror from that of a repository. The names of
// mirrors have a dot, like those of the registries that they are of: no other
// repository costs a look at which mirrors there are.
func splitMirror(repo string) (name, rest string, ok bool) {
	name, rest, ok = strings.Cut(repo, "/")
	return name, rest, ok && strings.Contains(name, ".")
}

// mirror is the one of an org in which a repository is; nil for one of the org's
// own.
func (s *Service) mirror(ctx context.Context, p Place) (m *mirror, rest string, err error) {
	name, rest, ok := splitMirror(p.Repo)
	if !ok {
		return nil, "", nil
	}
	s.mirrors.mu.Lock()
	of := s.mirrors.orgs[p.OrgID]
	s.mirrors.mu.Unlock()
	if now := s.clock.Now(); of == nil || now.Sub(of.asked) >= mirrorsFor {
		if of, err = s.lookUpMirrors(ctx, p.OrgID, now); err != nil {
			return nil, "", err
		}
	}
	return of.byName[name], rest, nil
}

func (s *Service) lookUpMirrors(ctx context.Context, orgID string, now time.Time) (*mirrorsOf, error) {
	rows, err := s.store.RegistryMirrors(ctx, orgID, mostMirrors)
	if err != nil {
		return nil, fmt.Errorf("look up the mirrors of an org: %w", err)
	}
	s.mirrors.mu.Lock()
	defer s.mirrors.mu.Unlock()
	before := s.mirrors.orgs[orgID]
	of, there := &mirrorsOf{asked: now, byName: make(map[string]*mirror, len(rows))}, make(map[string]int64, len(rows))
	for _, row := range rows {
		var m *mirror
		if before != nil {
			m = before.byName[row.Name]
		}
		if m == nil || m.Changed != row.Changed {
			m = s.newMirror(row)
		}
		there[row.Name] = m.Since
		m.learn(row)
		of.byName[row.Name] = m
	}
	if len(s.mirrors.orgs) >= mostOrgs {
		clear(s.mirrors.orgs)
	}
	s.mirrors.orgs[orgID] = of
	s.mirrors.fills.changed(orgID, there)
	return of, nil
}

// renewMirrors has this replica look anew which mirrors an org has. What comes from
// one that was changed is given up.
func (s *Service) renewMirrors(ctx context.Context, orgID string) {
	s.mirrors.mu.Lock()
	if of := s.mirrors.orgs[orgID]; of != nil {
		of.asked = time.Time{} // whatever becomes of this look
	}
	s.mirrors.mu.Unlock()
	err := s.after(ctx, func(ctx context.Context) error {
		_, err := s.lookUpMirrors(ctx, orgID, s.clock.Now())
		return err
	})
	if err != nil {
		s.log.WarnContext(ctx, "what comes from a mirror that was changed may go on to come", "org", orgID, "error", err)
	}
}

func (s *Service) newMirror(row MirrorRow) *mirror {
	m := &mirror{MirrorRow: row, failure: row.Failure}
	var mu sync.Mutex
	var made *upstream.Client
	m.client = func(ctx context.Context) (*upstream.Client, error) {
		mu.Lock()
		defer mu.Unlock()
		if made != nil {
			return made, nil
		}
		c, err := s.newUpstream(ctx, m)
		made = c
		return c, err
	}
	return m
}

func (s *Service) newUpstream(ctx context.Context, m *mirror) (*upstream.Client, error) {
	at, err := url.Parse(m.Upstream)
	if err != nil {
		return nil, fmt.Errorf("read where the mirror %s leads: %w", m.Name, err)
	}
	cfg := upstream.Config{URL: at, Line: s.mirrors.line, Clock: s.clock, Budget: func(b upstream.Budget) { m.budget(b, s.clock.Now()) }}
	if m.Secret != "" {
		password, err := s.secrets.Get(ctx, m.OrgID, m.Secret)
		if err != nil {
			return nil, fmt.Errorf("open the password of the mirror %s: %w", m.Name, err)
		}
		cfg.Login = upstream.Login{Username: m.Username, Password: string(password)}
	}
	return upstream.New(cfg), nil
}

// allows tells whether a repository of a mirror may be had.
func (m *mirror) allows(repo string) bool {
	return slices.ContainsFunc(m.Allow, func(pattern string) bool { return nimbus.FitsImage(pattern, repo) })
}

// budget notes how many manifests an upstream still gives.
func (m *mirror) budget(b upstream.Budget, now time.Time) {
	if b.Remaining > 0 {
		return
	}
	pause := b.Reset
	if pause <= 0 {
		pause = time.Minute
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.spent.hear(now.Add(pause))
}

// heard notes that an upstream wants a pause.
func (m *mirror) heard(until time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.limited.hear(until)
}

// learn notes what is written of an upstream's pauses.
func (m *mirror) learn(row MirrorRow) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.limited.learn(row.Limited)
	m.spent.learn(row.Spent)
}

// pause is how long an upstream may not be asked, 0 for not at all.
func (m *mirror) pause(now time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.limited.left(now)
}

// saves is how long an upstream gives no more manifests: what belongs to the last one
// that it gave, and what a tag stands for, can still be had.
func (m *mirror) saves(now time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.spent.left(now)
}

// hangs notes that an upstream does not answer.
func (m *mirror) hangs(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.awayUntil = now.Add(awayFor)
}

// away tells whether an upstream could not be asked a moment ago.
func (m *mirror) away(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return now.Before(m.awayUntil)
}

// writeEvery is how often it is written down that an upstream still fails.
const writeEvery = 30 * time.Second

// verdict is what an answer says of an upstream: why it can't be asked, "" for that
// it can. says is false where it says nothing of it, but of one thing that it can't
// give, or of who it leads to: else one bad image, and who asks for it, would keep
// all tags of the mirror old. What it refuses to give is no failure.
func verdict(err error) (failure string, away, says bool) {
	var of *upstream.Error
	if err == nil || !errors.As(err, &of) {
		return "", false, true
	}
	switch of.Kind {
	case upstream.Broken:
		return "", false, false
	case upstream.Inside:
		return err.Error(), false, !of.Elsewhere
	case upstream.Limited:
		return err.Error(), false, true
	case upstream.Away:
		return err.Error(), true, true
	case upstream.Denied, upstream.Unknown:
	}
	return "", false, true
}

// answered notes how an upstream has answered: whether it can be asked, and when
// again.
func (s *Service) answered(ctx context.Context, m *mirror, err error) {
	now := s.clock.Now()
	failure, away, says := verdict(err)
	m.mu.Lock()
	changed := says && ((m.failure == "") != (failure == "") || failure != "" && now.Sub(m.written) >= writeEvery)
	if says {
		m.awayUntil = time.Time{}
	}
	if away {
		m.awayUntil = now.Add(awayFor)
	}
	if changed {
		m.failure, m.written = failure, now
	}
	if news := m.limited.news() || m.spent.news(); !changed && !news {
		m.mu.Unlock()
		return
	}
	m.limited.told, m.spent.told = m.limited.until, m.spent.until
	note := MirrorNote{Failure: m.failure, Limited: m.limited.left(now), Spent: m.spent.left(now)}
	m.mu.Unlock()
	if changed && failure != "" {
		s.log.WarnContext(ctx, "the upstream of a mirror can't be asked: what is here of it is served", "org", m.OrgID, "mirror", m.Name, "error", failure)
	}
	err = s.after(ctx, func(ctx context.Context) error { return s.store.NoteRegistryMirror(ctx, m.MirrorKey, note) })
	if err != nil {
		s.log.WarnContext(ctx, "how a mirror does could not be written down", "mirror", m.Name, "error", err)
	}
}
