package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/shells"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

const (
	// batchCost is what a batch takes beside its bytes: many small ones must meet
	// the bound too.
	batchCost = 512
	// mostBatches is how many are read at once.
	mostBatches = 16
	// mostShells is how many are looked at, or listed, at once.
	mostShells = 200
)

var _ shells.Store = (*Store)(nil)

// OpenShell implements shells.Store.
func (s *Store) OpenShell(ctx context.Context, sh nimbus.Shell, validFor time.Duration) (nimbus.Shell, error) {
	spec, err := json.Marshal(sh.Spec)
	if err != nil {
		return sh, fmt.Errorf("encode a shell: %w", err)
	}
	err = s.write(ctx, func(t *tx) error {
		// Who opens another one at once counts this one, or waits.
		if _, err := t.db.ExecContext(ctx, "UPDATE orgs SET name = name WHERE id = $1", sh.OrgID); err != nil {
			return fmt.Errorf("lock the org: %w", err)
		}
		job, err := t.ShellJob(ctx, gen.ShellJobParams{OrgID: sh.OrgID, ID: sh.JobID})
		if errors.Is(err, sql.ErrNoRows) {
			return t.whyNoSandbox(ctx, sh.OrgID, sh.JobID)
		}
		if err != nil {
			return fmt.Errorf("read the job: %w", err)
		}
		if err := mayHaveShell(job, micros(t.now)); err != nil {
			return err
		}
		open, err := t.CountOpenShells(ctx, gen.CountOpenShellsParams{JobID: sh.JobID, OrgID: sh.OrgID})
		if err != nil {
			return fmt.Errorf("count shells: %w", err)
		}
		switch {
		case open.OfJob >= nimbus.MaxShellsPerJob:
			return nimbus.Errorf(nimbus.CodeRateLimited, "the job has %d shells open, which is the most", open.OfJob).WithHint("leave one of them: nimbus shell recordings %s", sh.JobID)
		case open.OfOrg >= nimbus.MaxShellsPerOrg:
			return nimbus.Errorf(nimbus.CodeRateLimited, "the org has %d shells open, which is the most", open.OfOrg)
		}
		sh.ID, sh.State = nimbus.NewID(nimbus.PrefixShell, t.now), nimbus.ShellWaiting
		sh.AttemptID, sh.HostID, sh.OpenedAt, sh.EndsAt = job.AttemptID, job.HostID, t.now, t.now.Add(validFor)
		err = t.InsertShell(ctx, gen.InsertShellParams{ID: sh.ID, OrgID: sh.OrgID, JobID: sh.JobID, AttemptID: sh.AttemptID, HostID: sh.HostID,
			Actor: sh.Actor, CameFrom: sh.From, Spec: string(spec), OpenedAt: micros(sh.OpenedAt), EndsAt: micros(sh.EndsAt)})
		if err != nil {
			return fmt.Errorf("write the shell: %w", err)
		}
		return t.audit(ctx, shells.Opened(sh))
	})
	return sh, err
}

// whyNoSandbox is the error of a job that no host has.
func (t *tx) whyNoSandbox(ctx context.Context, orgID, jobID string) error {
	j, err := t.JobRow(ctx, jobID)
	if err != nil || j.OrgID != orgID {
		return nimbus.Errorf(nimbus.CodeNotFound, "there is no such job")
	}
	return noSandbox(j.State)
}

func noSandbox(jobState string) error {
	err := nimbus.Errorf(nimbus.CodeConflict, "the job has no sandbox now: it is %s", jobState)
	if nimbus.State(jobState) == nimbus.StateFinished {
		return err.WithHint("a job that was submitted with --hold keeps its sandbox for a while after it has failed")
	}
	return err.WithHint("it has one once it runs")
}

// mayHaveShell tells whether the host of a job has a sandbox of it in which
// shells can be opened.
func mayHaveShell(j gen.ShellJobRow, now int64) error {
	var inv nimbus.Inventory
	if err := json.Unmarshal([]byte(j.Inventory), &inv); err != nil {
		return fmt.Errorf("read the host's inventory: %w", err)
	}
	switch {
	case j.State != "live" || j.ExpiresAt <= now || j.StartedAt == 0 || j.StopAt > 0 && j.StopAt <= now:
		return noSandbox(j.JobState)
	case j.JobState == string(nimbus.StateFinished) && j.Outcome == "":
		return noSandbox(j.JobState) // about to be destroyed
	case !inv.Shells:
		return nimbus.Errorf(nimbus.CodeUnsupported, "the agent of the job's host is older than shells").WithHint("upgrade nimbus-agent on %s", j.HostID)
	}
	return nil
}

// Shell implements shells.Store.
func (s *Store) Shell(ctx context.Context, id string) (st shells.Standing, err error) {
	err = s.read(ctx, func(t *tx) error {
		row, err := t.ShellStanding(ctx, gen.ShellStandingParams{ID: id, Now: micros(t.now)})
		if errors.Is(err, sql.ErrNoRows) {
			return nimbus.Errorf(nimbus.CodeNotFound, "there is no such shell")
		}
		if err != nil {
			return fmt.Errorf("read the shell: %w", err)
		}
		st, err = standing(gen.OpenShellsRow(row), t.now)
		return err
	})
	return st, err
}

// OpenShells implements shells.Store.
func (s *Store) OpenShells(ctx context.Context, after string) (open []shells.Standing, err error) {
	err = s.read(ctx, func(t *tx) error {
		rows, err := t.OpenShells(ctx, gen.OpenShellsParams{Now: micros(t.now), After: after, Most: mostShells})
		if err != nil {
			return fmt.Errorf("read open shells: %w", err)
		}
		open = make([]shells.Standing, len(rows))
		for i, r := range rows {
			if open[i], err = standing(r, t.now); err != nil {
				return err
			}
		}
		return nil
	})
	return open, err
}

// ShellsOfHost implements shells.Store.
func (s *Store) ShellsOfHost(ctx context.Context, hostID string) (ids []string, err error) {
	err = s.read(ctx, func(t *tx) error {
		ids, err = t.ShellsOfHost(ctx, gen.ShellsOfHostParams{HostID: hostID, Limit: mostShells})
		return err
	})
	return ids, err
}

// ShellsOfJob implements shells.Store.
func (s *Store) ShellsOfJob(ctx context.Context, orgID, jobID string) (list []nimbus.Shell, err error) {
	err = s.read(ctx, func(t *tx) error {
		rows, err := t.ShellsOfJob(ctx, gen.ShellsOfJobParams{OrgID: orgID, JobID: jobID, Limit: mostShells})
		if err != nil {
			return fmt.Errorf("list shells: %w", err)
		}
		list = make([]nimbus.Shell, len(rows))
		for i, r := range rows {
			if list[i], err = shellOf(r); err != nil {
				return err
			}
		}
		return nil
	})
	return list, err
}

// AttachShell implements shells.Store.
func (s *Store) AttachShell(ctx context.Context, id string) error {
	return s.write(ctx, func(t *tx) error {
		_, err := t.AttachShell(ctx, gen.AttachShellParams{ID: id, AttachedAt: micros(t.now)})
		return err
	})
}

// SeeShell implements shells.Store.
func (s *Store) SeeShell(ctx context.Context, id string, to shells.Side, ago time.Duration) error {
	return s.write(ctx, func(t *tx) error {
		at := micros(t.now.Add(-ago))
		if to == shells.FromShell {
			return t.SeeShellUser(ctx, gen.SeeShellUserParams{ID: id, UserSeenAt: at})
		}
		return t.SeeShellHost(ctx, gen.SeeShellHostParams{ID: id, HostSeenAt: at})
	})
}

// PutBatch implements shells.Store.
func (s *Store) PutBatch(ctx context.Context, id string, side shells.Side, seq int64, body []byte) error {
	return s.write(ctx, func(t *tx) error {
		size, now := int64(len(body)+batchCost), micros(t.now)
		var n int64
		var err error
		if side == shells.ToShell {
			n, err = t.PutShellInput(ctx, gen.PutShellInputParams{ID: id, Before: seq - 1, Size: size, Now: now})
		} else {
			n, err = t.PutShellOutput(ctx, gen.PutShellOutputParams{ID: id, Before: seq - 1, Size: size, Now: now})
		}
		if err != nil {
			return fmt.Errorf("number a batch: %w", err)
		}
		if n == 0 { // another try of the same was faster, or it has ended
			return nimbus.Errorf(nimbus.CodeConflict, "batch %d is not the next", seq)
		}
		return t.InsertShellBatch(ctx, gen.InsertShellBatchParams{ShellID: id, Side: string(side), Seq: seq, Body: body})
	})
}

// Batches implements shells.Store.
func (s *Store) Batches(ctx context.Context, id string, side shells.Side, after int64) (batches []shells.Batch, err error) {
	err = s.read(ctx, func(t *tx) error {
		rows, err := t.ShellBatches(ctx, gen.ShellBatchesParams{ShellID: id, Side: string(side), Seq: after, Limit: mostBatches})
		if err != nil {
			return fmt.Errorf("read batches: %w", err)
		}
		batches = make([]shells.Batch, len(rows))
		for i, r := range rows {
			batches[i] = shells.Batch{Seq: r.Seq, Body: r.Body}
		}
		return nil
	})
	return batches, err
}

// FreeBatches implements shells.Store.
func (s *Store) FreeBatches(ctx context.Context, id string, side shells.Side, upTo int64) error {
	return s.write(ctx, func(t *tx) error {
		freed, err := t.ShellBatchBytes(ctx, gen.ShellBatchBytesParams{ShellID: id, Side: string(side), Seq: upTo, Cost: batchCost})
		if err != nil || freed == 0 {
			return err
		}
		if err := t.DeleteShellBatches(ctx, gen.DeleteShellBatchesParams{ShellID: id, Side: string(side), Seq: upTo}); err != nil {
			return fmt.Errorf("free batches: %w", err)
		}
		if side == shells.ToShell {
			return t.FreeShellInput(ctx, gen.FreeShellInputParams{ID: id, Size: freed, Now: micros(t.now)})
		}
		return t.FreeShellOutput(ctx, gen.FreeShellOutputParams{ID: id, Size: freed, Now: micros(t.now)})
	})
}

// RecordShell implements shells.Store.
func (s *Store) RecordShell(ctx context.Context, id string, lines int64) error {
	return s.write(ctx, func(t *tx) error {
		return t.RecordShell(ctx, gen.RecordShellParams{ID: id, Recorded: lines})
	})
}

// EndShell implements shells.Store.
func (s *Store) EndShell(ctx context.Context, id string, end nimbus.ShellEnd, actor string) (ended bool, err error) {
	raw, err := json.Marshal(end)
	if err != nil {
		return false, fmt.Errorf("encode an end: %w", err)
	}
	err = s.write(ctx, func(t *tx) error {
		n, err := t.EndShell(ctx, gen.EndShellParams{ID: id, EndedAt: micros(t.now), Ending: string(raw)})
		if ended = n > 0; err != nil || !ended {
			return err
		}
		if err := t.DeleteShellBatches(ctx, gen.DeleteShellBatchesParams{ShellID: id, Side: string(shells.ToShell), Seq: 1 << 62}); err != nil {
			return fmt.Errorf("drop input: %w", err)
		}
		row, err := t.ShellStanding(ctx, gen.ShellStandingParams{ID: id, Now: micros(t.now)})
		if err != nil {
			return fmt.Errorf("read the shell: %w", err)
		}
		st, err := standing(gen.OpenShellsRow(row), t.now)
		if err != nil {
			return err
		}
		return t.audit(ctx, shells.EndedBy(st.Shell, actor))
	})
	return ended, err
}

// ForgetShells implements shells.Store.
func (s *Store) ForgetShells(ctx context.Context, endedFor time.Duration) error {
	return s.write(ctx, func(t *tx) error {
		ids, err := t.LeftShells(ctx, gen.LeftShellsParams{EndedAt: micros(t.now.Add(-endedFor)), Limit: mostShells})
		if err != nil {
			return fmt.Errorf("look for output that nobody came for: %w", err)
		}
		for _, id := range ids {
			if err := t.DeleteShellBatches(ctx, gen.DeleteShellBatchesParams{ShellID: id, Side: string(shells.FromShell), Seq: 1 << 62}); err != nil {
				return fmt.Errorf("drop output: %w", err)
			}
			if err := t.ForgetShellOutput(ctx, id); err != nil {
				return fmt.Errorf("drop output: %w", err)
			}
		}
		return nil
	})
}

func standing(r gen.OpenShellsRow, now time.Time) (shells.Standing, error) {
	sh, err := shellOf(gen.Shell{ID: r.ID, OrgID: r.OrgID, JobID: r.JobID, AttemptID: r.AttemptID, HostID: r.HostID, Actor: r.Actor, CameFrom: r.CameFrom,
		Spec: r.Spec, State: r.State, OpenedAt: r.OpenedAt, EndsAt: r.EndsAt, EndedAt: r.EndedAt, Ending: r.Ending, Recorded: r.Recorded})
	return shells.Standing{
		Shell: sh, Now: now, Fence: r.Fence, ActiveAt: fromMicros(r.ActiveAt), UserSeenAt: fromMicros(r.UserSeenAt), HostSeenAt: fromMicros(r.HostSeenAt),
		Sent:  map[shells.Side]int64{shells.ToShell: r.InSeq, shells.FromShell: r.OutSeq},
		Bytes: map[shells.Side]int64{shells.ToShell: r.InBytes, shells.FromShell: r.OutBytes},
	}, err
}

func shellOf(r gen.Shell) (nimbus.Shell, error) {
	sh := nimbus.Shell{
		ID: r.ID, OrgID: r.OrgID, JobID: r.JobID, AttemptID: r.AttemptID, HostID: r.HostID, Actor: r.Actor, From: r.CameFrom,
		State: nimbus.ShellState(r.State), OpenedAt: fromMicros(r.OpenedAt), EndsAt: fromMicros(r.EndsAt), EndedAt: fromMicros(r.EndedAt),
		RecordedLines: r.Recorded,
	}
	err := errors.Join(json.Unmarshal([]byte(r.Spec), &sh.Spec), unmarshalSome(r.Ending, &sh.End))
	if err != nil {
		return sh, fmt.Errorf("read the row of shell %s: %w", r.ID, err)
	}
	return sh, nil
}
