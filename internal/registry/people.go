package registry

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/nimbus-ci/nimbus"
)

// usual sets the quota of an org that has none of its own.
func (s *Service) usual(u nimbus.ImageUsage) nimbus.ImageUsage {
	if !u.OwnQuota {
		u.Quota = s.limits.of(u.OrgID).Org
	}
	return u
}

// Usage is how much an org has.
func (s *Service) Usage(ctx context.Context, orgID string) (nimbus.ImageUsage, error) {
	u, err := s.store.RegistryUsage(ctx, orgID)
	if err != nil {
		return nimbus.ImageUsage{}, fmt.Errorf("look what an org uses: %w", err)
	}
	return s.usual(u), nil
}

// SetQuota sets how many bytes an org may have; a negative number means the usual.
func (s *Service) SetQuota(ctx context.Context, p nimbus.Principal, orgID string, bytes int64) error {
	bytes = max(bytes, -1)
	e := event(p, orgID, "registry.set_quota", "", map[string]string{"bytes": strconv.FormatInt(bytes, 10)})
	if err := s.store.SetRegistryQuota(ctx, orgID, bytes, e); err != nil {
		return fmt.Errorf("set the quota of a registry: %w", err)
	}
	return nil
}

func event(p nimbus.Principal, orgID, action, target string, detail map[string]string) nimbus.AuditEvent {
	return nimbus.AuditEvent{OrgID: orgID, Actor: p.Actor(), Action: action, Target: target, Outcome: nimbus.AuditAllowed, Detail: detail}
}

// Repos is a page of an org's repositories, by name. next is the token of the page
// after, "" after the last.
func (s *Service) Repos(ctx context.Context, orgID string, page nimbus.PageRequest) (repos []nimbus.ImageRepo, next string, err error) {
	page = page.Bounded()
	repos, err = s.store.RegistryRepos(ctx, orgID, page.Token, page.Size+1)
	if err != nil {
		return nil, "", fmt.Errorf("list repositories: %w", err)
	}
	if len(repos) > page.Size {
		repos = repos[:page.Size]
		next = repos[page.Size-1].Name
	}
	return repos, next, nil
}

// ListImages is a repository, with a page of its tags, what they stand for, and what
// is said about it. Codes: not_found, invalid.
func (s *Service) ListImages(ctx context.Context, orgID, repo string, page nimbus.PageRequest) (r nimbus.ImageRepo, images []nimbus.Image, next string, err error) {
	p := Place{orgID, repo}
	if err := CheckRepo(repo); err != nil {
		return r, nil, "", err
	}
	page = page.Bounded()
	if r, err = s.store.RegistryRepo(ctx, p); err != nil {
		return r, nil, "", fmt.Errorf("look up a repository: %w", err)
	}
	images, err = s.store.RegistryImages(ctx, p, page.Token, page.Size+1)
	if err != nil {
		return r, nil, "", fmt.Errorf("list images: %w", err)
	}
	if len(images) > page.Size {
		images = images[:page.Size]
		next = images[page.Size-1].Tag
	}
	return r, images, next, nil
}

// SetImageRules sets those of a repository, which may have nothing in it yet. Codes:
// invalid.
func (s *Service) SetImageRules(ctx context.Context, who nimbus.Principal, orgID, repo string, r nimbus.ImageRules) (err error) {
	p := Place{orgID, repo}
	if err := CheckRepo(p.Repo); err != nil {
		return err
	}
	if err := s.noMirror(ctx, p, "rules are for what is pushed, and nobody pushes there"); err != nil {
		return err
	}
	if r.PushFrom, err = checkPushFrom(r.PushFrom); err != nil {
		return err
	}
	if r.KeepDays < 0 || r.KeepDays > maxKeepDays {
		return nimbus.Errorf(nimbus.CodeInvalid, "images can't be kept for %d days, up to %d are possible", r.KeepDays, maxKeepDays)
	}
	e := event(who, p.OrgID, "registry.set_rules", p.Repo, map[string]string{
		"immutable": strconv.FormatBool(r.Immutable), "keep_days": strconv.Itoa(r.KeepDays), "evict": strconv.FormatBool(r.Evict),
		"push_from": strings.Join(r.PushFrom, " ")})
	if err := s.store.SetRegistryRules(ctx, p, r, e); err != nil {
		return fmt.Errorf("set the rules of a repository: %w", err)
	}
	return nil
}

// noMirror refuses what can't be done with repositories of mirrors.
func (s *Service) noMirror(ctx context.Context, p Place, why string) error {
	m, _, err := s.mirror(ctx, p)
	if m == nil || err != nil {
		return err
	}
	return nimbus.Errorf(nimbus.CodeInvalid, "%.200q is in the mirror %s: %s", p.Repo, m.Name, why).
		WithHint("`nimbus registry mirror show %s` tells what is here of it; `nimbus registry mirror rm %s` removes all of it, with the mirror", m.Name, m.Name)
}

// maxKeepDays is ten years.
const maxKeepDays = 3650

// Remove removes a tag, an image by its digest, or, without a reference, a whole
// repository. Codes: not_found, invalid, conflict where its tags do not change.
func (s *Service) Remove(ctx context.Context, who nimbus.Principal, orgID, repo, reference string) error {
	p := Place{orgID, repo}
	if err := s.noMirror(ctx, p, "what is there goes by itself when nobody pulls it, and tags are asked for anew"); err != nil {
		return err
	}
	if reference == "" {
		return s.RemoveRepo(ctx, who, p)
	}
	if err := CheckRepo(repo); err != nil {
		return err
	}
	return s.RemoveManifest(ctx, who, p, reference)
}

// RemoveRepo removes a repository with all its images. Codes: not_found, invalid,
// conflict where its tags do not change.
func (s *Service) RemoveRepo(ctx context.Context, who nimbus.Principal, p Place) error {
	if err := CheckRepo(p.Repo); err != nil {
		return err
	}
	err := s.store.DropRegistryRepo(ctx, p, event(who, p.OrgID, "registry.remove", p.Repo, nil))
	s.known.forget()
	if err != nil {
		return fmt.Errorf("remove a repository: %w", err)
	}
	return nil
}
