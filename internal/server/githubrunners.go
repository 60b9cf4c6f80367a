package server

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/demand"
	"github.com/nimbus-ci/nimbus/internal/forge"
)

// Bounds of scale sets. GitHub's own are wider.
const (
	mostScaleSets      = 64
	mostRunners        = 10_000 // of a runner group
	defaultMaxRunners  = 100
	maxScaleSetName    = 64
	scaleSetCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
)

// runnerStore keeps with whom runners are registered.
type runnerStore interface {
	RunnerPlaces(ctx context.Context) ([]nimbus.RunnerPlace, error)
	SetRunnerPlace(ctx context.Context, p nimbus.RunnerPlace, e nimbus.AuditEvent) error
	ScaleSets(ctx context.Context) ([]nimbus.ScaleSet, error)
	ScaleSet(ctx context.Context, id string) (nimbus.ScaleSet, error)
	CreateScaleSet(ctx context.Context, set nimbus.ScaleSet, e nimbus.AuditEvent) error
	DeleteScaleSet(ctx context.Context, id string, e nimbus.AuditEvent) error
	demand.ReleaseStore
}

// readPlaces has the forge know where runners are registered.
func (g *gitHub) readPlaces(ctx context.Context) error {
	places, err := g.places.RunnerPlaces(ctx)
	if err != nil {
		return fmt.Errorf("read where runners are registered: %w", err)
	}
	sets, err := g.places.ScaleSets(ctx)
	if err != nil {
		return fmt.Errorf("read the scale sets: %w", err)
	}
	out := &forge.Places{Organizations: map[int64]nimbus.RunnerPlace{}, ScaleSets: sets}
	for _, p := range places {
		out.Organizations[p.InstallationID] = p
	}
	g.forge.SetPlaces(out)
	return nil
}

// organizations are those with which runners are registered.
func (g *gitHub) organizations() []nimbus.ForgeRepo { return g.forge.Organizations() }

// toldOf is the audit event of what is done to an installation's runners, in the
// platform's chain.
func toldOf(p nimbus.Principal, action, target string) nimbus.AuditEvent {
	return nimbus.AuditEvent{Actor: p.Actor(), Action: action, Target: target, Outcome: nimbus.AuditAllowed}
}

// RunnerPlaces implements httpapi.GitHub.
func (g *gitHub) RunnerPlaces(ctx context.Context) ([]nimbus.RunnerPlace, error) {
	return g.places.RunnerPlaces(ctx)
}

// SetRunnerPlace implements httpapi.GitHub.
func (g *gitHub) SetRunnerPlace(ctx context.Context, p nimbus.Principal, installation int64, organization bool, group string) (nimbus.RunnerPlace, error) {
	place := nimbus.RunnerPlace{InstallationID: installation}
	switch {
	case installation <= 0:
		return place, nimbus.Errorf(nimbus.CodeInvalid, "there is no installation %d", installation).WithHint("nimbus github installations shows them")
	case !organization && group != "":
		return place, nimbus.Errorf(nimbus.CodeInvalid, "repositories have no runner groups").WithHint("only runners of an organisation are in one")
	case organization:
		app, err := g.forge.Of(ctx, installation)
		if err != nil {
			return place, err
		}
		if place, err = app.OrganizationPlace(ctx, installation, group); err != nil {
			return place, err
		}
	}
	if err := g.places.SetRunnerPlace(ctx, place, toldOf(p, "github_runners.place", strconv.FormatInt(installation, 10))); err != nil {
		return place, err
	}
	return place, g.readPlaces(ctx)
}

// ScaleSets implements httpapi.GitHub.
func (g *gitHub) ScaleSets(ctx context.Context) ([]nimbus.ScaleSet, error) {
	return g.places.ScaleSets(ctx)
}

// AddScaleSet implements httpapi.GitHub. It is made at GitHub first: one that is
// left over there is taken over by the next try.
func (g *gitHub) AddScaleSet(ctx context.Context, p nimbus.Principal, set nimbus.ScaleSet) (nimbus.ScaleSet, error) {
	g.changing.Lock()
	defer g.changing.Unlock()
	if err := checkScaleSet(&set); err != nil {
		return set, err
	}
	have, err := g.places.ScaleSets(ctx)
	if err != nil {
		return set, err
	}
	if len(have) >= mostScaleSets {
		return set, nimbus.Errorf(nimbus.CodeTooLarge, "there are %d scale sets, and no more than that", mostScaleSets)
	}
	app, err := g.forge.Of(ctx, set.InstallationID)
	if err != nil {
		return set, err
	}
	place, err := app.OrganizationPlace(ctx, set.InstallationID, set.Group)
	if err != nil {
		return set, err
	}
	set.AppID, set.Organization, set.Group, set.GroupID = place.AppID, place.Organization, place.Group, place.GroupID
	if slices.ContainsFunc(have, func(o nimbus.ScaleSet) bool {
		return o.InstallationID == set.InstallationID && strings.EqualFold(o.Name, set.Name)
	}) {
		return set, nimbus.Errorf(nimbus.CodeConflict, "%s has a scale set %q already", set.Organization, set.Name)
	}
	if set.GitHubID, err = app.MakeScaleSet(ctx, set); err != nil {
		return set, err
	}
	set.ID = nimbus.NewID(nimbus.PrefixScaleSet, g.clock.Now())
	if err := g.places.CreateScaleSet(ctx, set, toldOf(p, "github_runners.add_scale_set", set.ID)); err != nil {
		return set, err
	}
	return set, g.readPlaces(ctx)
}

func checkScaleSet(set *nimbus.ScaleSet) error {
	if set.MaxRunners == 0 {
		set.MaxRunners = defaultMaxRunners
	}
	if len(set.Labels) == 0 {
		set.Labels = []string{set.Name}
	}
	switch {
	case set.Name == "" || len(set.Name) > maxScaleSetName || strings.Trim(set.Name, scaleSetCharacters) != "":
		return nimbus.Errorf(nimbus.CodeInvalid, "%.100q is no name of a scale set", set.Name).WithHint("it has 1 to %d letters, digits and -_.", maxScaleSetName)
	case set.MaxRunners < 1 || set.MaxRunners > mostRunners:
		return nimbus.Errorf(nimbus.CodeInvalid, "a scale set has 1 to %d runners", mostRunners)
	case !slices.ContainsFunc(set.Labels, func(l string) bool { return strings.EqualFold(l, nimbus.OwnLabel) }):
		return nimbus.Errorf(nimbus.CodeInvalid, "the label %q is missing", nimbus.OwnLabel).
			WithHint("jobs without it are somebody else's, and are left alone")
	case len(set.Labels) > nimbus.MaxLabels:
		return nimbus.Errorf(nimbus.CodeInvalid, "%d labels are more than %d", len(set.Labels), nimbus.MaxLabels)
	}
	if _, err := nimbus.ParseLabels(set.Labels); err != nil {
		return nimbus.Errorf(nimbus.CodeInvalid, "jobs with all labels of the scale set could not run: %w", err)
	}
	return nil
}

// RemoveScaleSet implements httpapi.GitHub.
func (g *gitHub) RemoveScaleSet(ctx context.Context, p nimbus.Principal, id string) error {
	g.changing.Lock()
	defer g.changing.Unlock()
	set, err := g.places.ScaleSet(ctx, id)
	if nimbus.ErrorCode(err) == nimbus.CodeNotFound {
		return nimbus.Errorf(nimbus.CodeNotFound, "there is no scale set %s", id).WithHint("nimbus github scale-set list shows them")
	}
	if err != nil {
		return err
	}
	app, err := g.forge.Of(ctx, set.InstallationID)
	switch code := nimbus.ErrorCode(err); {
	case code == nimbus.CodeForbidden: // the App is gone, and its scale set out of reach
	case err != nil:
		return err
	default:
		if err := app.DropScaleSet(ctx, set); err != nil && nimbus.ErrorCode(err) != nimbus.CodeForbidden {
			return err
		}
	}
	if err := g.places.DeleteScaleSet(ctx, id, toldOf(p, "github_runners.remove_scale_set", id)); err != nil {
		return err
	}
	return g.readPlaces(ctx)
}

// forgetRunners forgets the scale sets of an App, at GitHub too, and with whom
// its runners are registered. GitHub may be out of reach, or the key taken no
// more, which is why somebody forgets an App: then the scale set stays there.
func (g *gitHub) forgetRunners(ctx context.Context, p nimbus.Principal, appID int64) error {
	sets, err := g.places.ScaleSets(ctx)
	if err != nil {
		return fmt.Errorf("read the scale sets: %w", err)
	}
	for _, set := range sets {
		if !g.isOf(ctx, appID, set.AppID, set.InstallationID) {
			continue
		}
		g.dropAtGitHub(ctx, appID, set)
		err := g.places.DeleteScaleSet(ctx, set.ID, toldOf(p, "github_runners.remove_scale_set", set.ID))
		if err != nil && nimbus.ErrorCode(err) != nimbus.CodeNotFound {
			return err
		}
	}
	places, err := g.places.RunnerPlaces(ctx)
	if err != nil {
		return fmt.Errorf("read where runners are registered: %w", err)
	}
	for _, place := range places {
		if !g.isOf(ctx, appID, place.AppID, place.InstallationID) {
			continue
		}
		none := nimbus.RunnerPlace{InstallationID: place.InstallationID}
		if err := g.places.SetRunnerPlace(ctx, none, toldOf(p, "github_runners.place", strconv.FormatInt(place.InstallationID, 10))); err != nil {
			return err
		}
	}
	return nil
}

// isOf tells whether something is of an App: by what was kept with it, else by
// whose installation it is.
func (g *gitHub) isOf(ctx context.Context, appID, kept, installation int64) bool {
	if kept != 0 {
		return kept == appID
	}
	app, err := g.forge.Of(ctx, installation)
	return err == nil && app.ID() == appID
}

func (g *gitHub) dropAtGitHub(ctx context.Context, appID int64, set nimbus.ScaleSet) {
	g.mu.Lock()
	app := g.open[appID].app
	g.mu.Unlock()
	err := error(nimbus.Errorf(nimbus.CodeNotFound, "the App can't be opened"))
	if app != nil {
		err = app.DropScaleSet(ctx, set)
	}
	if err != nil {
		g.log.WarnContext(ctx, "a scale set of an App that is forgotten stays at GitHub: remove it there",
			"scale_set", set.Name, "organization", set.Organization, "error", err)
	}
}
