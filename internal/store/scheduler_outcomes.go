package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// What is read of each job, and with it of its last attempt.
const (
	outcomeColumns = "j.admitted_at, j.result, j.finished_at, COALESCE(a.running_at, 0) AS running_at, j.metadata"
	outcomeJoin    = " LEFT JOIN attempts a ON a.id = j.attempt_id"
)

// knownMetadata bounds how many texts of metadata are remembered: most jobs have
// the same as some of those before.
const knownMetadata = 1000

// Outcomes implements scheduler.Reader.
func (t schedulerTx) Outcomes(ctx context.Context, orgID string, f scheduler.JobFilter, each func(nimbus.JobOutcome)) (err error) {
	if err := t.settled(ctx); err != nil {
		return err
	}
	repoID, known, err := t.repoOf(ctx, f)
	if err != nil || !known {
		return err
	}
	text, args := pickJobs(outcomeColumns, outcomeJoin, orgID, repoID, f)
	rows, err := t.tx.db.QueryContext(ctx, text, args...)
	if err != nil {
		return fmt.Errorf("read how jobs went: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	if err := eachOutcome(rows, each); err != nil {
		return fmt.Errorf("read how jobs went: %w", err)
	}
	return nil
}

func eachOutcome(rows *sql.Rows, each func(nimbus.JobOutcome)) error {
	remembered := map[string]map[string]string{"": nil}
	for rows.Next() {
		var admitted, finished, running int64
		var result string
		var raw sql.RawBytes // is read before the next row
		if err := rows.Scan(&admitted, &result, &finished, &running, &raw); err != nil {
			return err
		}
		metadata, ok := remembered[string(raw)]
		if !ok {
			if err := json.Unmarshal(raw, &metadata); err != nil {
				return fmt.Errorf("metadata: %w", err)
			}
			if len(remembered) < knownMetadata {
				remembered[string(raw)] = metadata
			}
		}
		j := nimbus.JobOutcome{AdmittedAt: fromMicros(admitted), Result: nimbus.Result(result), Ran: -1, Metadata: metadata}
		if running > 0 && finished >= running {
			j.Ran = time.Duration(finished-running) * time.Microsecond
		}
		each(j)
	}
	return rows.Err()
}
