package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/demand"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

var _ demand.ScaleSets = (*Store)(nil)

// RunnerPlaces are the installations whose runners are an organisation's.
func (s *Store) RunnerPlaces(ctx context.Context) (out []nimbus.RunnerPlace, err error) {
	err = s.read(ctx, func(t *tx) error {
		out = nil
		rows, err := t.RunnerPlaces(ctx)
		for _, r := range rows {
			out = append(out, nimbus.RunnerPlace{InstallationID: r.InstallationID, AppID: r.AppID, Organization: r.Organization,
				Group: r.GroupName, GroupID: r.GroupID, ChangedAt: fromMicros(r.ChangedAt)})
		}
		return err
	})
	return out, err
}

// SetRunnerPlace says with which organisation the runners of an installation are
// registered; without one, at each job's repository.
func (s *Store) SetRunnerPlace(ctx context.Context, p nimbus.RunnerPlace, e nimbus.AuditEvent) error {
	return s.write(ctx, func(t *tx) error {
		var err error
		if p.Organization == "" {
			err = t.DropRunnerPlace(ctx, p.InstallationID)
		} else {
			err = t.SaveRunnerPlace(ctx, gen.SaveRunnerPlaceParams{InstallationID: p.InstallationID, Organization: p.Organization,
				GroupName: p.Group, GroupID: p.GroupID, ChangedAt: micros(t.now), AppID: p.AppID})
		}
		return errors.Join(err, t.told(ctx, e))
	})
}

// ScaleSets implements demand.ScaleSets.
func (s *Store) ScaleSets(ctx context.Context) (out []nimbus.ScaleSet, err error) {
	err = s.read(ctx, func(t *tx) error {
		out = nil
		rows, err := t.ScaleSets(ctx)
		if err != nil {
			return err
		}
		for _, r := range rows {
			set, err := scaleSet(r)
			if err != nil {
				return err
			}
			out = append(out, set)
		}
		return nil
	})
	return out, err
}

// ScaleSet is one scale set. Codes: not_found.
func (s *Store) ScaleSet(ctx context.Context, id string) (set nimbus.ScaleSet, err error) {
	err = s.read(ctx, func(t *tx) error {
		row, err := t.ScaleSet(ctx, id)
		if err != nil {
			return interpret(err)
		}
		set, err = scaleSet(row)
		return err
	})
	return set, err
}

func scaleSet(r gen.ScaleSet) (nimbus.ScaleSet, error) {
	set := nimbus.ScaleSet{
		ID: r.ID, InstallationID: r.InstallationID, AppID: r.AppID, Organization: r.Organization, Group: r.GroupName, GroupID: r.GroupID, Name: r.Name,
		MaxRunners: int(r.MaxRunners), GitHubID: r.GithubID, ChangedAt: fromMicros(r.ChangedAt),
		State: nimbus.ScaleSetState{HeardAt: fromMicros(r.HeardAt), Trouble: r.Trouble, Assigned: int(r.Assigned), Running: int(r.Running), Session: r.Session},
	}
	if err := json.Unmarshal([]byte(r.Labels), &set.Labels); err != nil {
		return set, fmt.Errorf("read the labels of scale set %s: %w", r.ID, err)
	}
	return set, nil
}

// CreateScaleSet adds a scale set. Codes: conflict.
func (s *Store) CreateScaleSet(ctx context.Context, set nimbus.ScaleSet, e nimbus.AuditEvent) error {
	labels, err := json.Marshal(set.Labels)
	if err != nil {
		return fmt.Errorf("encode labels: %w", err)
	}
	return s.write(ctx, func(t *tx) error {
		n, err := t.CreateScaleSet(ctx, gen.CreateScaleSetParams{
			ID: set.ID, InstallationID: set.InstallationID, Organization: set.Organization, GroupName: set.Group, GroupID: set.GroupID, Name: set.Name,
			Labels: string(labels), MaxRunners: int64(set.MaxRunners), GithubID: set.GitHubID, ChangedAt: micros(t.now), AppID: set.AppID,
		})
		if err == nil && n == 0 {
			return nimbus.Errorf(nimbus.CodeConflict, "%s has a scale set %q already", set.Organization, set.Name)
		}
		return errors.Join(err, t.told(ctx, e))
	})
}

// DeleteScaleSet forgets one. Codes: not_found.
func (s *Store) DeleteScaleSet(ctx context.Context, id string, e nimbus.AuditEvent) error {
	return s.write(ctx, func(t *tx) error {
		n, err := t.DeleteScaleSet(ctx, id)
		if err == nil && n == 0 {
			return nimbus.Errorf(nimbus.CodeNotFound, "there is no scale set %s", id)
		}
		return errors.Join(err, t.told(ctx, e))
	})
}

// SaveScaleSetSession implements demand.ScaleSets.
func (s *Store) SaveScaleSetSession(ctx context.Context, id, session string) error {
	return s.write(ctx, func(t *tx) error {
		return t.SaveScaleSetSession(ctx, gen.SaveScaleSetSessionParams{ID: id, Session: session})
	})
}

// SaveScaleSetState implements demand.ScaleSets.
func (s *Store) SaveScaleSetState(ctx context.Context, id string, heard bool, state nimbus.ScaleSetState) error {
	return s.write(ctx, func(t *tx) error {
		if heard {
			state.HeardAt = t.now
		}
		return t.SaveScaleSetState(ctx, gen.SaveScaleSetStateParams{ID: id, HeardAt: micros(state.HeardAt), Trouble: state.Trouble,
			Assigned: int64(state.Assigned), Running: int64(state.Running)})
	})
}
