package registry

import (
	"context"
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
	// fillsOfMirror is how many blobs come from one upstream at once, fillsOfOrg from
	// those of one org, fillsAtOnce from all. The last fillsSpared of these are for
	// orgs of which nothing comes. fillsWaiting is how many may come or wait for
	// that, fillsWaitingOfOrg how many of one org.
	fillsOfMirror, fillsOfOrg, fillsAtOnce, fillsSpared = 12, 16, 64, 16
	fillsWaiting, fillsWaitingOfOrg                     = 4096, 512
	// awayFor is how long an upstream that could not be asked is not asked for what
	// is here.
	awayFor = 15 * time.Second
)

// mirrors is what this replica knows of mirrors, and has under way.
type mirrors struct {
	line  *upstream.Line
	slots *slots

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

	mu           sync.Mutex
	limitedUntil time.Time // by this replica's clock
	awayUntil    time.Time
	failure      string
	written      time.Time // when the failure was last written down
}

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
	rows, err := s.store.RegistryMirrors(ctx, orgID, "", mostMirrors)
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
		m.heard(row.LimitedUntil)
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
	return slices.ContainsFunc(m.Allow, func(pattern string) bool { return fits(pattern, repo) })
}

// fits tells whether a name is of a pattern, in which a star stands for anything.
func fits(pattern, name string) bool {
	first, rest, star := strings.Cut(pattern, "*")
	name, ok := strings.CutPrefix(name, first)
	if !ok || !star {
		return ok && name == ""
	}
	for {
		part, more, star := strings.Cut(rest, "*")
		if !star {
			return strings.HasSuffix(name, part)
		}
		i := strings.Index(name, part)
		if i < 0 {
			return false
		}
		name, rest = name[i+len(part):], more
	}
}

// budget notes how often an upstream may still be asked.
func (m *mirror) budget(b upstream.Budget, now time.Time) {
	if b.Remaining > 0 {
		return
	}
	pause := b.Reset
	if pause <= 0 {
		pause = time.Minute
	}
	m.heard(now.Add(pause))
}

// heard notes that an upstream wants a pause.
func (m *mirror) heard(until time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if until.After(m.limitedUntil) {
		m.limitedUntil = until
	}
}

// pause is how long an upstream may not be asked, 0 for not at all.
func (m *mirror) pause(now time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return max(0, m.limitedUntil.Sub(now))
}

// away tells whether an upstream could not be asked a moment ago.
func (m *mirror) away(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return now.Before(m.awayUntil)
}

// writeEvery is how often it is written down that an upstream still fails.
const writeEvery = 30 * time.Second

// answered notes how an upstream has answered: whether it can be asked, and when
// again. What it refuses to give is no failure, nor is one thing that it can't: else
// one bad image, and who asks for it, would keep all tags of the mirror old.
func (s *Service) answered(ctx context.Context, m *mirror, err error) {
	now, failure := s.clock.Now(), ""
	kind := upstream.KindOf(err)
	if err != nil && (kind == upstream.Away || kind == upstream.Inside || kind == upstream.Limited) {
		failure = err.Error()
	}
	m.mu.Lock()
	m.awayUntil = time.Time{}
	if failure != "" && kind != upstream.Limited {
		m.awayUntil = now.Add(awayFor)
	}
	changed := (m.failure == "") != (failure == "") || failure != "" && now.Sub(m.written) >= writeEvery
	if changed {
		m.failure, m.written = failure, now
	}
	pause := max(0, m.limitedUntil.Sub(now))
	m.mu.Unlock()
	if !changed {
		return
	}
	if failure != "" {
		s.log.WarnContext(ctx, "the upstream of a mirror can't be asked: what is here of it is served", "org", m.OrgID, "mirror", m.Name, "error", failure)
	}
	err = s.after(ctx, func(ctx context.Context) error { return s.store.NoteRegistryMirror(ctx, m.MirrorKey, failure, pause) })
	if err != nil {
		s.log.WarnContext(ctx, "how a mirror does could not be written down", "mirror", m.Name, "error", err)
	}
}
