package store

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/demand"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

var _ demand.ReleaseStore = (*Store)(nil)

// RunnerReleases implements demand.ReleaseStore.
func (s *Store) RunnerReleases(ctx context.Context) (out []nimbus.RunnerReleases, err error) {
	err = s.read(ctx, func(t *tx) error {
		out = nil
		rows, err := t.RunnerReleases(ctx)
		if err != nil {
			return err
		}
		for _, row := range rows {
			r := nimbus.RunnerReleases{APIURL: row.ApiUrl, CheckedAt: fromMicros(row.CheckedAt), Trouble: row.Trouble}
			if err := json.Unmarshal([]byte(row.Releases), &r.Releases); err != nil {
				return fmt.Errorf("read the releases that %s told of: %w", row.ApiUrl, err)
			}
			out = append(out, r)
		}
		return nil
	})
	return out, err
}

// SaveRunnerReleases implements demand.ReleaseStore.
func (s *Store) SaveRunnerReleases(ctx context.Context, r nimbus.RunnerReleases) error {
	if r.Releases == nil {
		r.Releases = []nimbus.RunnerRelease{}
	}
	releases, err := json.Marshal(r.Releases)
	if err != nil {
		return fmt.Errorf("encode releases: %w", err)
	}
	return s.write(ctx, func(t *tx) error {
		return t.SaveRunnerReleases(ctx, gen.SaveRunnerReleasesParams{
			ApiUrl: r.APIURL, Releases: string(releases), CheckedAt: micros(r.CheckedAt), Trouble: r.Trouble,
		})
	})
}

// ForgetRunnerReleases implements demand.ReleaseStore.
func (s *Store) ForgetRunnerReleases(ctx context.Context, api string) error {
	return s.write(ctx, func(t *tx) error { return t.ForgetRunnerReleases(ctx, api) })
}
