package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// runsKept is how long it is remembered what a run came from: longer than GitHub
// lets one go on, or be run again.
const runsKept = 40 * 24 * time.Hour

// RunOrigin is what was kept of a run. Codes: not_found.
func (s *Store) RunOrigin(ctx context.Context, orgID, repo string, runID int64) (o nimbus.RunOrigin, err error) {
	raw, err := gen.New(s.reader).GitHubRun(ctx, gen.GitHubRunParams{OrgID: orgID, Repo: repo, RunID: runID})
	if errors.Is(err, sql.ErrNoRows) {
		return o, nimbus.Errorf(nimbus.CodeNotFound, "it was not asked yet what the run came from")
	}
	if err != nil {
		return o, interpret(err)
	}
	if err := json.Unmarshal([]byte(raw), &o); err != nil {
		return o, fmt.Errorf("read what a run came from: %w", err)
	}
	return o, nil
}

// SaveRunOrigin keeps what a run came from. What is kept already stays. Old ones are
// forgotten meanwhile, more of them than come.
func (s *Store) SaveRunOrigin(ctx context.Context, orgID, repo string, runID int64, o nimbus.RunOrigin) error {
	raw, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("encode what a run came from: %w", err)
	}
	return s.write(ctx, func(t *tx) error {
		if err := t.ForgetGitHubRuns(ctx, micros(t.now.Add(-runsKept))); err != nil {
			return err
		}
		return t.SaveGitHubRun(ctx, gen.SaveGitHubRunParams{OrgID: orgID, Repo: repo, RunID: runID, Origin: string(raw), AskedAt: micros(t.now)})
	})
}

// GitHubJobsCached tells whether an org's jobs of GitHub's have the cache.
func (s *Store) GitHubJobsCached(ctx context.Context, orgID string) (bool, error) {
	off, err := gen.New(s.reader).OrgCacheOff(ctx, orgID)
	return off == 0, interpret(err)
}

// SetGitHubJobsCached says whether they have.
func (s *Store) SetGitHubJobsCached(ctx context.Context, orgID string, on bool, e nimbus.AuditEvent) error {
	return s.write(ctx, func(t *tx) error {
		set := t.SetOrgCacheOff
		if on {
			set = t.SetOrgCacheOn
		}
		if err := set(ctx, orgID); err != nil {
			return err
		}
		return t.audit(ctx, e)
	})
}
