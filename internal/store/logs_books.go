package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// AttemptsOfJob returns attempts of a job of an org, the newest first.
func (s *Store) AttemptsOfJob(ctx context.Context, orgID, jobID string, limit int32) ([]string, error) {
	ids, err := gen.New(s.reader).AttemptsOfJob(ctx, gen.AttemptsOfJobParams{OrgID: orgID, JobID: jobID, Limit: limit})
	return ids, interpret(err)
}

// AttemptsOfRepo returns attempts of the jobs of a repository ("owner/name", in
// lower case) of an org, the newest first of those whose id is below another.
func (s *Store) AttemptsOfRepo(ctx context.Context, orgID, repo, below string, limit int32) ([]string, error) {
	ids, err := gen.New(s.reader).AttemptsOfRepo(ctx, gen.AttemptsOfRepoParams{OrgID: orgID, Name: repo, ID: below, Limit: limit})
	return ids, interpret(err)
}

// JobOfLog tells whose log an attempt's is: "" for what is forgotten.
func (s *Store) JobOfLog(ctx context.Context, orgID, attemptID string) (jobID, repo string, err error) {
	row, err := gen.New(s.reader).JobOfLog(ctx, gen.JobOfLogParams{ID: attemptID, OrgID: orgID})
	if errors.Is(err, sql.ErrNoRows) {
		return "", "", nil
	}
	return row.ID, row.Repo, interpret(err)
}

// allOrgs is the row of those that have none of their own.
const allOrgs = ""

// LogRetention is for how many days an org's logs are kept, 0 for ever; own says that
// it is the org's own.
func (s *Store) LogRetention(ctx context.Context, orgID string) (days int32, own bool, err error) {
	rows, err := gen.New(s.reader).LogRetention(ctx, orgID)
	if err != nil || len(rows) == 0 {
		return 0, false, interpret(err)
	}
	return int32(rows[0].Days), rows[0].OrgID != allOrgs, nil
}

// SetLogRetention says for how many days an org's logs are kept; of no org, those of
// all that have none of their own.
func (s *Store) SetLogRetention(ctx context.Context, orgID string, days int32, e nimbus.AuditEvent) error {
	return s.write(ctx, func(t *tx) error {
		if err := t.SetLogRetention(ctx, gen.SetLogRetentionParams{OrgID: orgID, Days: int64(days)}); err != nil {
			return err
		}
		return t.audit(ctx, e)
	})
}

// ClearLogRetention gives up what an org has of its own.
func (s *Store) ClearLogRetention(ctx context.Context, orgID string, e nimbus.AuditEvent) error {
	return s.write(ctx, func(t *tx) error {
		if err := t.DeleteLogRetention(ctx, orgID); err != nil {
			return err
		}
		return t.audit(ctx, e)
	})
}

// shipsFor is for how long after its end a host is thought to have lines of a log that
// is not whole yet. Its lease has no such bound (see scheduler.LogLease): who comes
// later finds the imported lines, which are the same.
const shipsFor = 7 * 24 * time.Hour

// MayImportLog tells whether an org may bring a log of an attempt back: not of another
// org's, and not while a host may write it. Codes: conflict.
func (s *Store) MayImportLog(ctx context.Context, orgID, attemptID string) error {
	return s.read(ctx, func(t *tx) error {
		row, err := t.Attempt(ctx, attemptID)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return nil // its job is forgotten, or of another server
		case err != nil:
			return err
		case row.OrgID != orgID || row.State != string(scheduler.AttemptEnded):
			return nimbus.Errorf(nimbus.CodeConflict, "the log of %s can't be imported: its attempt has not ended here", attemptID)
		}
		// A host that did not tell the end itself may write no more: it was given up on.
		if row.LogComplete || row.Outcome == "" || t.now.Sub(fromMicros(row.EndedAt)) > shipsFor {
			return nil
		}
		return nimbus.Errorf(nimbus.CodeConflict, "the log of %s can't be imported: its host may still have lines of it", attemptID).
			WithHint("it has them for 7 days after the attempt's end at most")
	})
}

// RecordLogImport writes to the audit ledger that logs were imported.
func (s *Store) RecordLogImport(ctx context.Context, e nimbus.AuditEvent) error {
	return s.write(ctx, func(t *tx) error { return t.audit(ctx, e) })
}
