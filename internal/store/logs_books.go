package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// AttemptsOfJob returns attempts of a job of an org, the newest first.
func (s *Store) AttemptsOfJob(ctx context.Context, orgID, jobID string, limit int32) ([]string, error) {
	ids, err := gen.New(s.reader).AttemptsOfJob(ctx, gen.AttemptsOfJobParams{OrgID: orgID, JobID: jobID, Limit: limit})
	return ids, interpret(err)
}

// AttemptsOf returns attempts of those jobs of an org that are wanted, the newest
// first of those whose id is below another.
func (s *Store) AttemptsOf(ctx context.Context, orgID string, wanted logs.Jobs, below string, limit int32) ([]string, error) {
	text, args := attemptsOf(orgID, wanted, below, limit)
	rows, err := s.reader.QueryContext(ctx, text, args...)
	ids, err := scanAll(rows, err, func(rows scanner, id *string) error { return rows.Scan(id) })
	return ids, interpret(err)
}

// attemptsOf is the query for them. It begins with the jobs of the first tag, if one is
// wanted, or of the repository: what it costs grows with those, not with all jobs.
func attemptsOf(orgID string, wanted logs.Jobs, below string, limit int32) (text string, args []any) {
	var c condition
	tags, _ := tagsOf(nil, wanted.Metadata)
	from := "attempts a JOIN jobs j ON j.id = a.job_id"
	if len(tags) > 0 {
		from += " JOIN job_tags t ON t.job_id = j.id"
		c.and("t.org_id = ? AND t.tag = ?", orgID, tags[0])
		tags = tags[1:]
	}
	c.and("a.org_id = ? AND j.org_id = ? AND a.id < ?", orgID, orgID, below)
	if wanted.Repo != "" {
		c.and("j.repo_id <> '' AND j.repo_id IN (SELECT r.id FROM repos r WHERE r.org_id = ? AND r.name = ?)", orgID, wanted.Repo)
	}
	for _, tag := range tags {
		c.and("EXISTS (SELECT 1 FROM job_tags more WHERE more.job_id = j.id AND more.tag = ?)", tag)
	}
	c.args = append(c.args, limit)
	return fmt.Sprintf("SELECT a.id FROM %s WHERE TRUE%s ORDER BY a.id DESC LIMIT $%d", from, c.text.String(), len(c.args)), c.args
}

// JobOfLog tells whose log an attempt's is.
func (s *Store) JobOfLog(ctx context.Context, orgID, attemptID string) (logs.Owner, error) {
	row, err := gen.New(s.reader).JobOfLog(ctx, gen.JobOfLogParams{ID: attemptID, OrgID: orgID})
	if errors.Is(err, sql.ErrNoRows) {
		return logs.Owner{}, nil
	}
	return logs.Owner{JobID: row.ID, Name: row.Name, Repo: row.Repo, Earlier: row.AttemptID != attemptID}, interpret(err)
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
