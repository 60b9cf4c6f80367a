package forge

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	nimbus "github.com/nimbus-ci/nimbus"
)

const scaleSetsPath = "_apis/runtime/runnerscalesets"

// scaleSetFields are those of a scale set that matter here.
type scaleSetFields struct {
	ID      int64           `json:"id,omitempty"`
	Name    string          `json:"name"`
	GroupID int64           `json:"runnerGroupId"`
	Labels  []scaleSetLabel `json:"labels"`
	Setting struct {
		DisableUpdate bool `json:"disableUpdate"`
	} `json:"RunnerSetting"`
}

type scaleSetLabel struct {
	Type string `json:"type"`
	Name string `json:"name"`
}

// names are labels in order, without case.
func names(labels []scaleSetLabel) (out []string) {
	for _, l := range labels {
		out = append(out, strings.ToLower(l.Name))
	}
	slices.Sort(out)
	return out
}

func keyOf(set *nimbus.ScaleSet) serviceKey {
	return serviceKey{set.InstallationID, set.Organization}
}

func scaleSetPath(set *nimbus.ScaleSet, rest string) string {
	return fmt.Sprintf("%s/%d%s", scaleSetsPath, set.GitHubID, rest)
}

// MakeScaleSet makes a scale set at GitHub and returns its id there. One of its
// group, name and labels is taken over: its making may have been cut off. Codes:
// conflict for one with other labels, which is somebody else's; invalid for a
// GitHub Enterprise Server that knows one label only, and drops the others.
func (a *App) MakeScaleSet(ctx context.Context, set nimbus.ScaleSet) (int64, error) {
	want := scaleSetFields{Name: set.Name, GroupID: set.GroupID}
	want.Setting.DisableUpdate = true // the image says which version runs
	for _, l := range set.Labels {
		want.Labels = append(want.Labels, scaleSetLabel{"System", l})
	}
	var found struct {
		Value []scaleSetFields `json:"value"`
	}
	err := a.service.call(ctx, keyOf(&set), scaleSetsPath,
		url.Values{"runnerGroupId": {strconv.FormatInt(set.GroupID, 10)}, "name": {set.Name}},
		serviceCall{what: "look for the scale set", method: http.MethodGet, out: &found})
	if err != nil {
		return 0, err
	}
	var made scaleSetFields
	if len(found.Value) > 0 {
		made = found.Value[0]
	} else if err := a.service.call(ctx, keyOf(&set), scaleSetsPath, nil, serviceCall{
		what: "make the scale set", method: http.MethodPost, in: want, out: &made,
	}); err != nil {
		return 0, err
	}
	switch {
	case len(found.Value) > 0 && !slices.Equal(names(made.Labels), names(want.Labels)):
		return 0, nimbus.Errorf(nimbus.CodeConflict, "%s has a scale set %q with other labels", set.Organization, set.Name).
			WithHint("it may be somebody else's: choose another name, or remove it at GitHub")
	case made.ID <= 0:
		return 0, nimbus.Errorf(nimbus.CodeUnavailable, "GitHub answered without the scale set")
	case len(made.Labels) < len(want.Labels):
		return 0, nimbus.Errorf(nimbus.CodeInvalid, "this GitHub Enterprise Server knows %d of the %d labels", len(made.Labels), len(want.Labels)).
			WithHint("before 3.21 a scale set has one label: give it one, and use that as runs-on")
	}
	return made.ID, nil
}

// DropScaleSet removes a scale set at GitHub. One that is gone is fine.
func (a *App) DropScaleSet(ctx context.Context, set nimbus.ScaleSet) error {
	err := a.service.call(ctx, keyOf(&set), scaleSetPath(&set, ""), nil, serviceCall{what: "remove the scale set", method: http.MethodDelete})
	if nimbus.ErrorCode(err) == nimbus.CodeNotFound {
		return nil
	}
	return err
}

// scaleSetRunner registers a runner of a scale set.
func (a *App) scaleSetRunner(ctx context.Context, set *nimbus.ScaleSet, name string) (nimbus.Runner, string, error) {
	var made struct {
		Runner struct {
			ID int64 `json:"id"`
		} `json:"runner"`
		Config string `json:"encodedJITConfig"`
	}
	err := a.service.call(ctx, keyOf(set), scaleSetPath(set, "/generatejitconfig"), nil, serviceCall{
		what: "create a runner of the scale set", method: http.MethodPost, in: map[string]string{"name": name, "workFolder": workFolder}, out: &made,
	})
	return nimbus.Runner{ID: made.Runner.ID, Name: name, Org: set.Organization}, made.Config, err
}
