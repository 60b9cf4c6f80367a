package client

import (
	"context"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// RunnerPlaces lists the installations whose runners are an organisation's.
// Codes: forbidden.
func (c *Client) RunnerPlaces(ctx context.Context) ([]nimbus.RunnerPlace, error) {
	answer, err := call(ctx, c.runners.ListRunnerPlaces, &nimbusv1.ListRunnerPlacesRequest{})
	var places []nimbus.RunnerPlace
	for _, p := range answer.GetPlaces() {
		places = append(places, wire.ToRunnerPlace(p))
	}
	return places, err
}

// SetRunnerPlace has the runners of an installation registered with its
// organisation, in the runner group of that name, or at the repository of each
// job. Codes: invalid, not_found, forbidden, unavailable.
func (c *Client) SetRunnerPlace(ctx context.Context, installation int64, organization bool, group string) (nimbus.RunnerPlace, error) {
	answer, err := call(ctx, c.runners.SetRunnerPlace, &nimbusv1.SetRunnerPlaceRequest{InstallationId: installation, Organization: organization, Group: group})
	return wire.ToRunnerPlace(answer.GetPlace()), err
}

// ScaleSets lists the scale sets that are listened to. Codes: forbidden.
func (c *Client) ScaleSets(ctx context.Context) ([]nimbus.ScaleSet, error) {
	answer, err := call(ctx, c.runners.ListScaleSets, &nimbusv1.ListScaleSetsRequest{})
	var sets []nimbus.ScaleSet
	for _, s := range answer.GetScaleSets() {
		sets = append(sets, wire.ToScaleSet(s))
	}
	return sets, err
}

// AddScaleSet makes a scale set of installation, name, labels, group and most
// runners. Codes: invalid, conflict, forbidden, unavailable.
func (c *Client) AddScaleSet(ctx context.Context, set nimbus.ScaleSet) (nimbus.ScaleSet, error) {
	answer, err := call(ctx, c.runners.AddScaleSet, &nimbusv1.AddScaleSetRequest{InstallationId: set.InstallationID, Name: set.Name,
		Labels: set.Labels, Group: set.Group, MaxRunners: int32(set.MaxRunners)})
	return wire.ToScaleSet(answer.GetScaleSet()), err
}

// RemoveScaleSet removes a scale set, at GitHub too. Codes: not_found,
// unavailable.
func (c *Client) RemoveScaleSet(ctx context.Context, id string) error {
	_, err := call(ctx, c.runners.RemoveScaleSet, &nimbusv1.RemoveScaleSetRequest{Id: id})
	return err
}
