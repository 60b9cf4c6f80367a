package scheduler

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/nimbus-ci/nimbus"
)

// Bounds of what is set about an org's share.
const (
	MaxWeight       = 10_000 // a hundred times the usual
	MaxLimit        = 1_000_000
	maxLimitsOfOrg  = 500
	maxLimitNameLen = nimbus.MaxLabelBytes
)

// SetWeight gives an org, or one of its repos, its weight among the others.
// It counts from the next promotion on. Codes: invalid, not_found.
func (s *Service) SetWeight(ctx context.Context, p nimbus.Principal, orgID string, w Weight) error {
	if w.Percent < 1 || w.Percent > MaxWeight {
		return nimbus.Errorf(nimbus.CodeInvalid, "a weight is 1 to %d percent, not %d", MaxWeight, w.Percent).
			WithHint("%d is the usual share; a limit of 0 jobs stops a repository or label", DefaultWeight)
	}
	if w.Repo != "" && !nimbus.ValidRepo(w.Repo) {
		return notARepo(w.Repo)
	}
	err := s.update(ctx, func(u *unit) error {
		if err := u.SetWeight(ctx, orgID, w); err != nil {
			return err
		}
		return u.Audit(ctx, nimbus.AuditEvent{OrgID: orgID, Actor: p.Actor(), Action: "weight.set", Target: cmp.Or(w.Repo, orgID), Outcome: nimbus.AuditAllowed,
			Detail: map[string]string{"percent": strconv.Itoa(w.Percent)}})
	})
	if err == nil {
		s.log.InfoContext(ctx, "weight set", "org", orgID, "repo", w.Repo, "percent", w.Percent, "by", p.Actor())
	}
	return err
}

// Weights are an org's own weight, on the first page, and those of its repos
// that have another than the usual one, by name.
func (s *Service) Weights(ctx context.Context, orgID string, size int, after string) (weights []Weight, next string, err error) {
	size = pageSize(size)
	err = s.store.View(ctx, func(r Reader) error {
		weights, next = nil, ""
		if after == "" {
			own, err := r.OrgWeight(ctx, orgID)
			if err != nil {
				return err
			}
			weights = append(weights, Weight{Percent: own})
		}
		repos, err := r.RepoWeights(ctx, orgID, after, size+1)
		if len(repos) > size {
			repos = repos[:size]
			next = repos[size-1].Repo
		}
		weights = append(weights, repos...)
		return err
	})
	return weights, next, err
}

// pageSize is how many a page holds, by what was asked for.
func pageSize(asked int) int {
	if asked <= 0 {
		return DefaultPageSize
	}
	return min(asked, MaxPageSize)
}

// SetLimit bounds how many jobs of an org, of one of its repos or with a label
// may be on hosts or next for them at once. It counts the jobs that are queued
// from then on; what runs goes on. Codes: invalid, too_large.
func (s *Service) SetLimit(ctx context.Context, p nimbus.Principal, l Limit) error {
	l.Name = strings.ToLower(l.Name)
	if err := checkLimit(l); err != nil {
		return err
	}
	err := s.update(ctx, func(u *unit) error {
		all, err := u.LimitsOf(ctx, l.OrgID)
		if err != nil {
			return err
		}
		if len(all) >= maxLimitsOfOrg {
			return nimbus.Errorf(nimbus.CodeTooLarge, "an org has at most %d limits", maxLimitsOfOrg).WithHint("`nimbus limits rm` takes one away")
		}
		u.released = true // there may be room now
		if err := u.SetLimit(ctx, l); err != nil {
			return err
		}
		return u.Audit(ctx, nimbus.AuditEvent{OrgID: l.OrgID, Actor: p.Actor(), Action: "limit.set", Target: l.String(), Outcome: nimbus.AuditAllowed,
			Detail: map[string]string{"most": strconv.Itoa(l.Most)}})
	})
	if err == nil {
		s.log.InfoContext(ctx, "limit set", "org", l.OrgID, "kind", l.Kind, "name", l.Name, "most", l.Most, "by", p.Actor())
	}
	return err
}

func checkLimit(l Limit) error {
	switch {
	case l.Kind != LimitOrg && l.Kind != LimitRepo && l.Kind != LimitLabel:
		return nimbus.Errorf(nimbus.CodeInvalid, "there is no kind of limit %q", clip(string(l.Kind))).WithHint("the kinds are org, repo and label")
	case l.Kind == LimitOrg && l.Name != "":
		return nimbus.Errorf(nimbus.CodeInvalid, "a limit of the whole org has no name").WithHint("the kinds repo and label have one")
	case l.Kind != LimitOrg && (l.Name == "" || len(l.Name) > maxLimitNameLen):
		return nimbus.Errorf(nimbus.CodeInvalid, "a limit of a %s names it, in at most %d bytes", l.Kind, maxLimitNameLen)
	case l.Kind == LimitRepo && !nimbus.ValidRepo(l.Name):
		return notARepo(l.Name)
	case l.Most < 0 || l.Most > MaxLimit:
		return nimbus.Errorf(nimbus.CodeInvalid, "a limit is 0 to %d jobs, not %d", MaxLimit, l.Most)
	}
	if l.Kind == LimitLabel {
		// No job has a label that means nothing: it waits for a better one.
		if _, err := nimbus.ParseLabels([]string{l.Name}); err != nil {
			return nimbus.Errorf(nimbus.CodeInvalid, "no job can have this label, and so no limit counts it: %w", err).WithHint("docs/labels.md has all labels")
		}
	}
	return nil
}

func notARepo(name string) error {
	return nimbus.Errorf(nimbus.CodeInvalid, "%q is not a repository", clip(name)).WithHint("write OWNER/NAME, as GitHub has it")
}

// DropLimit takes a limit away. Codes: not_found.
func (s *Service) DropLimit(ctx context.Context, p nimbus.Principal, orgID string, kind LimitKind, name string) error {
	name = strings.ToLower(name)
	err := s.update(ctx, func(u *unit) error {
		u.released = true
		if err := u.DropLimit(ctx, orgID, kind, name); err != nil {
			return err
		}
		return u.Audit(ctx, nimbus.AuditEvent{OrgID: orgID, Actor: p.Actor(), Action: "limit.delete", Target: Limit{Kind: kind, Name: name}.String(),
			Outcome: nimbus.AuditAllowed})
	})
	if err == nil {
		s.log.InfoContext(ctx, "limit dropped", "org", orgID, "kind", kind, "name", name, "by", p.Actor())
	}
	return err
}

// Limits are the limits of an org, by kind and name. There are few: all are
// read, and cut into pages.
func (s *Service) Limits(ctx context.Context, orgID string, size int, after string) (limits []Limit, next string, err error) {
	size = pageSize(size)
	err = s.store.View(ctx, func(r Reader) (err error) {
		limits, err = r.LimitsOf(ctx, orgID)
		return err
	})
	i := slices.IndexFunc(limits, func(l Limit) bool { return l.String() > after })
	if i < 0 || err != nil {
		return nil, "", err
	}
	if limits = limits[i:]; len(limits) > size {
		limits = limits[:size]
		next = limits[size-1].String()
	}
	return limits, next, nil
}
