package forge

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-github/v92/github"

	nimbus "github.com/nimbus-ci/nimbus"
)

// permOrgRunners is the permission to register runners with an organisation.
const permOrgRunners = "organization_self_hosted_runners"

// maxGroupPages bounds a listing of runner groups, 100 a page.
const maxGroupPages = 10

// Places say where the runners of installations are registered. They are not
// changed once they are given away.
type Places struct {
	Organizations map[int64]nimbus.RunnerPlace // by installation
	ScaleSets     []nimbus.ScaleSet
}

// SetPlaces replaces where runners are registered from now on.
func (a *App) SetPlaces(p *Places) { a.places.Store(p) }

// SetPlaces is App.SetPlaces of all Apps, and of those that Set brings.
func (s *Apps) SetPlaces(p *Places) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.places = p
	for _, app := range s.apps {
		app.SetPlaces(p)
	}
}

// place is where the runner of a job is to be registered: by a scale set that
// has its labels, with its organisation, or at its repository.
func (a *App) place(job nimbus.GitHubJob, labels []string) (set *nimbus.ScaleSet, org nimbus.RunnerPlace) {
	p := a.places.Load()
	if p == nil {
		return nil, org
	}
	for i := range p.ScaleSets {
		if serves(&p.ScaleSets[i], job, labels) {
			return &p.ScaleSets[i], org
		}
	}
	if at, ok := p.Organizations[job.InstallationID]; ok && strings.EqualFold(at.Organization, job.Owner) {
		return nil, at
	}
	return nil, org
}

// serves tells whether GitHub may give a job to a runner of a scale set.
func serves(set *nimbus.ScaleSet, job nimbus.GitHubJob, labels []string) bool {
	return set.InstallationID == job.InstallationID && strings.EqualFold(set.Organization, job.Owner) &&
		!slices.ContainsFunc(labels, func(want string) bool {
			return !slices.ContainsFunc(set.Labels, func(have string) bool { return strings.EqualFold(have, want) })
		})
}

// RunnerOrg is the organisation with which the runner of a job would be
// registered, "" for its repository.
func (a *App) RunnerOrg(job nimbus.GitHubJob, labels []string) string {
	set, org := a.place(job, labels)
	if set != nil {
		return set.Organization
	}
	return org.Organization
}

// RunnerOrg is App.RunnerOrg of the job's App; "" where that is not known.
func (s *Apps) RunnerOrg(job nimbus.GitHubJob, labels []string) string {
	if app := s.cached(job.InstallationID); app != nil {
		return app.RunnerOrg(job, labels)
	}
	return ""
}

// runnersAt is the organisation with which an installation registers runners, ""
// for none.
func (a *App) runnersAt(installation int64) string {
	p := a.places.Load()
	if p == nil {
		return ""
	}
	if at, ok := p.Organizations[installation]; ok {
		return at.Organization
	}
	for _, set := range p.ScaleSets {
		if set.InstallationID == installation {
			return set.Organization
		}
	}
	return ""
}

// anyOrg tells whether runners of any installation are an organisation's.
func (a *App) anyOrg() bool {
	p := a.places.Load()
	return p != nil && len(p.Organizations)+len(p.ScaleSets) > 0
}

// needsAt are the permissions that an installation needs.
func (a *App) needsAt(installation int64) map[string]string {
	return needs(a.runnersAt(installation) != "")
}

// OrganizationPlace is the place of an installation with its organisation, in
// the runner group of the given name, "" for the default one. Codes: invalid for
// an owner that is none, or a group that is not there; forbidden where the owner
// has not granted it.
func (a *App) OrganizationPlace(ctx context.Context, installation int64, group string) (nimbus.RunnerPlace, error) {
	at, err := a.Installation(ctx, installation)
	switch {
	case err != nil:
		return nimbus.RunnerPlace{}, err
	case at.AccountType != "Organization":
		return nimbus.RunnerPlace{}, nimbus.Errorf(nimbus.CodeInvalid, "%s is no organisation", at.Account).
			WithHint("runners of a person are registered at repositories; GitHub lets no App register them with an enterprise: do so with each of its organisations")
	}
	out := nimbus.RunnerPlace{InstallationID: installation, AppID: a.id, Organization: at.Account, Group: group}
	out.Group, out.GroupID, err = a.group(ctx, installation, at.Account, group)
	return out, err
}

// group finds a runner group of an organisation.
func (a *App) group(ctx context.Context, installation int64, org, name string) (string, int64, error) {
	var found *github.RunnerGroup
	err := a.callAs(ctx, installation, "list runner groups", func(ctx context.Context, c *github.Client) error {
		opts := github.ListOrgRunnerGroupOptions{ListOptions: github.ListOptions{PerPage: pageSize}}
		for range maxGroupPages {
			page, answer, err := c.Actions.ListOrganizationRunnerGroups(ctx, org, &opts)
			if err != nil {
				return err
			}
			for _, g := range page.RunnerGroups {
				if name == "" && g.GetDefault() || name != "" && strings.EqualFold(g.GetName(), name) {
					found = g
					return nil
				}
			}
			if answer.NextPage == 0 {
				return nil
			}
			opts.Page = answer.NextPage
		}
		return nil
	})
	switch {
	case nimbus.ErrorCode(err) == nimbus.CodeForbidden || nimbus.ErrorCode(err) == nimbus.CodeNotFound:
		return "", 0, nimbus.Errorf(nimbus.CodeForbidden, "%w", err).WithHint("%s", "the App needs the organisation's permission Self-hosted runners (write): add it in the App's settings at GitHub, and have an owner of "+org+" approve it")
	case err != nil:
		return "", 0, err
	case found == nil:
		return "", 0, nimbus.Errorf(nimbus.CodeInvalid, "%s has no runner group %q", org, name).
			WithHint("they are at GitHub: the organisation's Settings, Actions, Runner groups")
	}
	return found.GetName(), found.GetID(), nil
}

// Installation is one installation, as GitHub has it now. Codes: not_found.
func (a *App) Installation(ctx context.Context, id int64) (out Installation, err error) {
	err = a.asApp(ctx, fmt.Sprintf("read the installation %d", id), func(ctx context.Context, c *github.Client) error {
		found, _, err := c.Apps.GetInstallation(ctx, id)
		if err != nil {
			return err
		}
		out = a.installation(found)
		return nil
	})
	return out, err
}

// Of is the App of an installation. Codes: forbidden where no App has it,
// unavailable.
func (s *Apps) Of(ctx context.Context, installation int64) (*App, error) {
	return s.of(ctx, installation)
}

// Organizations are those with which runners are registered, as repositories
// without a name.
func (s *Apps) Organizations() (out []nimbus.ForgeRepo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.places == nil {
		return nil
	}
	for id, p := range s.places.Organizations {
		out = append(out, nimbus.ForgeRepo{InstallationID: id, Owner: p.Organization})
	}
	for _, set := range s.places.ScaleSets {
		at := nimbus.ForgeRepo{InstallationID: set.InstallationID, Owner: set.Organization}
		if !slices.Contains(out, at) {
			out = append(out, at)
		}
	}
	return out
}
