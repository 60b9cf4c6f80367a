package distribution

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/registry"
)

// right is what may be done with a repository, as scopes of tokens call it.
type right string

const (
	pull   right = "pull"
	push   right = "push"
	remove right = "delete"
)

// rights are what somebody may do in an org. Jobs use images of their org, and make
// some: see pushes. Who may remove any is a person's business.
func rights(p nimbus.Principal, orgID string) []right {
	if p.Kind == nimbus.PrincipalJob {
		if p.OrgID != orgID {
			return nil
		}
		return []right{pull}
	}
	if !p.Person() {
		return nil
	}
	p, ok := p.In(orgID)
	if !ok {
		return nil
	}
	var all []right
	if p.Role.Includes(nimbus.RoleViewer) && p.May(nimbus.ScopeRegistryRead) {
		all = append(all, pull)
	}
	if p.Role.Includes(nimbus.RoleDeveloper) && p.May(nimbus.ScopeRegistryWrite) {
		all = append(all, push)
	}
	if p.Role.Includes(nimbus.RoleOperator) && p.May(nimbus.ScopeRegistryWrite) {
		all = append(all, remove)
	}
	return all
}

// caller is who sends a request, for a moment.
type caller struct {
	nimbus.Principal

	grants []grant // what the token is for; nil: all that the principal may
	bound  bool    // the grants are all
	until  time.Time

	mu     sync.Mutex
	work   *registry.Work           // of a job: what it works on; nil: nobody has asked
	orgs   map[string]string        // ids of orgs by their names, "" for none
	pushes map[registry.Place]error // of a job: why it may not push there, nil where it may
}

// grant is what a token may do with one repository.
type grant struct {
	Name   string  `json:"n"`
	Rights []right `json:"r"`
}

const (
	// callerFor is how long is believed who a header is of, and what he may do: a
	// token that is revoked works no longer than that and identity's own time.
	callerFor = time.Second
	// mostCallers and mostOrgs bound what is remembered.
	mostCallers = 10_000
	mostOrgs    = 1000
)

// callers remembers who sent which header, by its hash: a header may be long, and
// the same token comes with as many names as its owner likes.
type callers struct {
	mu sync.Mutex
	by map[[sha256.Size]byte]*caller
}

func newCallers() *callers { return &callers{by: map[[sha256.Size]byte]*caller{}} }

func (c *callers) get(header string, now time.Time) *caller {
	hash := sha256.Sum256([]byte(header))
	c.mu.Lock()
	defer c.mu.Unlock()
	if known, ok := c.by[hash]; ok && now.Before(known.until) {
		return known
	}
	return nil
}

func (c *callers) add(header string, known *caller) {
	hash := sha256.Sum256([]byte(header))
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.by) >= mostCallers {
		clear(c.by)
	}
	c.by[hash] = known
}

// caller says who sends a request. Codes: unauthenticated, rate_limited.
func (h *Handler) caller(r *http.Request) (*caller, error) {
	header, now := r.Header.Get("Authorization"), h.Clock.Now()
	if known := h.callers.get(header, now); known != nil {
		return known, nil
	}
	c, err := h.identify(r)
	if nimbus.ErrorCode(err) == nimbus.CodeUnauthenticated {
		if limited := h.Stranger(r); limited != nil {
			return nil, limited
		}
	}
	if err != nil {
		return nil, err
	}
	c.orgs, c.pushes = map[string]string{}, map[registry.Place]error{}
	if until := now.Add(callerFor); c.until.IsZero() || until.Before(c.until) {
		c.until = until
	}
	h.callers.add(header, c)
	return c, nil
}

// identify reads who a request is of: by a token of this registry, which holds the
// token that it was given for, or by that one itself, as Docker sends it or bare.
func (h *Handler) identify(r *http.Request) (*caller, error) {
	if _, password, ok := r.BasicAuth(); ok {
		p, err := h.Identity.Authenticate(r.Context(), password)
		return &caller{Principal: p}, err //nolint:wrapcheck // it is told as it is
	}
	token, ok := bearer(r)
	if !ok {
		return nil, nimbus.Errorf(nimbus.CodeUnauthenticated, "a token is needed").
			WithHint("`docker login` with any name and a token of Nimbus as the password")
	}
	t, sealed, err := h.seal.open(token, h.Clock.Now())
	switch {
	case err != nil:
		return nil, err
	case !sealed:
		p, err := h.Identity.Authenticate(r.Context(), token)
		return &caller{Principal: p}, err //nolint:wrapcheck // it is told as it is
	}
	p, err := h.Identity.Authenticate(r.Context(), t.Token)
	return &caller{Principal: p, grants: t.Grants, bound: true, until: time.Unix(t.Expires, 0)}, err //nolint:wrapcheck // it is told as it is
}

// bearer is the token of a request that has it bare. The word before it may be
// written in any case.
func bearer(r *http.Request) (token string, ok bool) {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.TrimLeft(token, " "), ok && strings.EqualFold(scheme, "Bearer")
}

// org is the id of an org by its name, "" where the caller has nothing to do with
// it, or there is none: which of both, nobody is told.
func (h *Handler) org(ctx context.Context, c *caller, name string) (string, error) {
	for _, m := range c.Orgs {
		if m.OrgName == name {
			return m.OrgID, nil
		}
	}
	if !c.Platform && c.Kind != nimbus.PrincipalJob || nimbus.CheckOrgName(name) != nil {
		return "", nil
	}
	c.mu.Lock()
	id, known := c.orgs[name]
	c.mu.Unlock()
	if known {
		return id, nil
	}
	o, err := h.Identity.Org(ctx, name)
	if err != nil && nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		return "", err //nolint:wrapcheck // it is told as it is
	}
	if err == nil && o.Name == name { // an id is no name
		id = o.ID
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.orgs) < mostOrgs {
		c.orgs[name] = id
	}
	return id, nil
}

// may tells what a caller may do with a repository, and where that is; whether a job
// may push is looked for only where that is asked. Codes: invalid.
func (h *Handler) may(ctx context.Context, c *caller, name string, pushing bool) (registry.Place, []right, error) {
	org, repo, ok := strings.Cut(name, "/")
	if !ok {
		return registry.Place{}, nil, &registry.RefusalError{Reason: registry.NameInvalid, Err: nimbus.Errorf(nimbus.CodeInvalid, "%.100q is no repository here", name).
			WithHint("repositories are called ORG/NAME")}
	}
	if err := registry.CheckRepo(repo); err != nil {
		return registry.Place{}, nil, err //nolint:wrapcheck // it is told as it is
	}
	id, err := h.org(ctx, c, org)
	if err != nil || id == "" {
		return registry.Place{}, nil, err
	}
	place, all := registry.Place{OrgID: id, Repo: repo}, rights(c.Principal, id)
	if c.Kind == nimbus.PrincipalJob && len(all) > 0 {
		if all, err = h.rightsOfJob(ctx, c, place, org, pushing); err != nil {
			return place, nil, err
		}
	}
	if c.bound {
		i := slices.IndexFunc(c.grants, func(g grant) bool { return g.Name == name })
		if i < 0 {
			return place, nil, nil
		}
		all = slices.DeleteFunc(all, func(r right) bool { return !slices.Contains(c.grants[i].Rights, r) })
	}
	return place, all, nil
}

// rightsOfJob are what a job may do with a repository of its org: nothing where it
// runs what others wrote, to whom the org's images are not.
func (h *Handler) rightsOfJob(ctx context.Context, c *caller, p registry.Place, orgName string, pushing bool) ([]right, error) {
	work, err := h.workOf(ctx, c)
	if err != nil || work.Stranger != "" {
		return nil, err
	}
	if !pushing {
		return []right{pull}, nil
	}
	ok, err := h.pushes(ctx, c, p, orgName, work)
	if err != nil || !ok {
		return []right{pull}, err
	}
	return []right{pull, push}, nil
}

// workOf is what a job works on.
func (h *Handler) workOf(ctx context.Context, c *caller) (registry.Work, error) {
	c.mu.Lock()
	known := c.work
	c.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	work, err := h.Work(ctx, c.OrgID, c.Subject)
	if err != nil {
		return work, fmt.Errorf("learn what a job works on: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.work = &work
	return work, nil
}

// mostPlaces bounds of how many repositories it is remembered whether a job may push
// there.
const mostPlaces = 100

// pushes tells whether a job may push to a repository of its org.
func (h *Handler) pushes(ctx context.Context, c *caller, p registry.Place, orgName string, work registry.Work) (bool, error) {
	c.mu.Lock()
	why, known := c.pushes[p]
	c.mu.Unlock()
	if known {
		return why == nil, nil
	}
	why = h.Registry.MayPush(ctx, p, orgName, work)
	if why != nil && nimbus.ErrorCode(why) != nimbus.CodeForbidden {
		return false, why //nolint:wrapcheck // it is told as it is
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pushes) < mostPlaces {
		c.pushes[p] = why
	}
	return why == nil, nil
}

// refusedJob is why a job may not do something in a repository of its org, nil where
// that is not why.
func (c *caller) refusedJob(p registry.Place, takes right) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.work != nil && p.OrgID == c.OrgID && c.work.Stranger != "":
		return nimbus.Errorf(nimbus.CodeForbidden, "the job pulls and pushes no images: %s", c.work.Stranger)
	case takes == push:
		return c.pushes[p]
	}
	return nil
}

// permit says who sends a request, and lets him do what takes a right in a
// repository.
func (h *Handler) permit(r *http.Request, name string, takes right) (*caller, registry.Place, error) {
	scope := "repository:" + name + ":" + string(takes)
	if takes == push {
		scope = "repository:" + name + ":pull,push"
	}
	c, err := h.caller(r)
	if err != nil {
		return nil, registry.Place{}, challenged(err, scope, "")
	}
	place, all, err := h.may(r.Context(), c, name, takes == push)
	if err != nil {
		return nil, place, err
	}
	if slices.Contains(all, takes) {
		return c, place, nil
	}
	denied := registry.Refuse(registry.Denied, nimbus.CodeForbidden, "you may not %s in %.200s, or there is no such repository", takes, name)
	if why := c.refusedJob(place, takes); why != nil {
		return nil, place, &registry.RefusalError{Reason: registry.Denied, Err: why} // no other token may do it
	}
	if c.bound {
		return nil, place, challenged(denied, scope, "insufficient_scope") // another token may do it
	}
	return nil, place, denied
}

// challenge is an error that a token would mend.
type challenge struct {
	error

	scope, why string
}

func challenged(err error, scope, why string) error {
	if code := nimbus.ErrorCode(err); code != nimbus.CodeUnauthenticated && code != nimbus.CodeForbidden {
		return err
	}
	return &challenge{err, scope, why}
}

// Unwrap returns the cause.
func (c *challenge) Unwrap() error { return c.error }

// scheme is how the client reaches this: a proxy in front says so.
func scheme(r *http.Request) string {
	if r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https") {
		return "https"
	}
	return "http"
}

// header is the challenge of a request. All of it is quoted: clients want that.
func (c *challenge) header(r *http.Request) string {
	text := `Bearer realm="` + scheme(r) + "://" + quoted(r.Host) + Prefix + `token",service="` + service + `"`
	if c.scope != "" {
		text += `,scope="` + quoted(c.scope) + `"`
	}
	if c.why != "" {
		text += `,error="` + c.why + `"`
	}
	return text
}

func quoted(text string) string {
	return strings.NewReplacer(`"`, "", `\`, "", "\r", "", "\n", "").Replace(text)
}

func asChallenge(err error) *challenge {
	var c *challenge
	if errors.As(err, &c) {
		return c
	}
	if nimbus.ErrorCode(err) == nimbus.CodeUnauthenticated {
		return &challenge{error: err}
	}
	return nil
}
