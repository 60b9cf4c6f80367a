package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// lastID sorts after every id.
const lastID = "~"

// Job implements scheduler.Reader.
func (t schedulerTx) Job(ctx context.Context, orgID, jobID string) (nimbus.Job, error) {
	if err := t.settled(ctx); err != nil {
		return nimbus.Job{}, err
	}
	rows, err := t.tx.db.QueryContext(ctx, "SELECT "+viewColumns+" FROM job_views WHERE org_id = $1 AND id = $2", orgID, jobID)
	views, err := scanAll(rows, err, scanJobView)
	if err != nil {
		return nimbus.Job{}, err
	}
	if len(views) == 0 {
		return nimbus.Job{}, nimbus.Errorf(nimbus.CodeNotFound, "there is no such job")
	}
	return jobOfView(views[0])
}

// Jobs implements scheduler.Reader.
func (t schedulerTx) Jobs(ctx context.Context, orgID string, f scheduler.JobFilter) ([]nimbus.Job, error) {
	if err := t.settled(ctx); err != nil {
		return nil, err
	}
	repoID, known, err := t.repoOf(ctx, f)
	if err != nil || !known {
		return nil, err
	}
	text, args := listJobs(orgID, repoID, f)
	rows, err := t.tx.db.QueryContext(ctx, text, args...)
	views, err := scanAll(rows, err, scanJobView)
	if err != nil {
		return nil, fmt.Errorf("list jobs: %w", err)
	}
	jobs := make([]nimbus.Job, len(views))
	for i, v := range views {
		if jobs[i], err = jobOfView(v); err != nil {
			return nil, err
		}
	}
	return jobs, nil
}

// repoOf is the repository that jobs are looked for by, "" for any. known is false
// where there is no such one.
func (t schedulerTx) repoOf(ctx context.Context, f scheduler.JobFilter) (id string, known bool, err error) {
	if f.Repo == "" {
		return "", true, nil
	}
	switch id, err = t.tx.RepoByName(ctx, strings.ToLower(f.Repo)); {
	case errors.Is(err, sql.ErrNoRows):
		return "", false, nil
	case err != nil:
		return "", false, fmt.Errorf("find the repository: %w", err)
	}
	return id, true, nil
}

// condition is the text of a query and its parameters.
type condition struct {
	text strings.Builder
	args []any
}

// and adds to the condition; each ? is a parameter.
func (c *condition) and(text string, args ...any) {
	c.text.WriteString(" AND ")
	for _, arg := range args {
		before, after, _ := strings.Cut(text, "?")
		c.args = append(c.args, arg)
		fmt.Fprintf(&c.text, "%s$%d", before, len(c.args))
		text = after
	}
	c.text.WriteString(text)
}

// listJobs is the query for a page of jobs.
func listJobs(orgID, repoID string, f scheduler.JobFilter) (text string, args []any) {
	page, args := pickJobs("j.id", "", orgID, repoID, f)
	return fmt.Sprintf("SELECT %s FROM job_views v WHERE v.id IN (%s) ORDER BY v.id DESC", qualified("v", viewColumns), page), args
}

// pickJobs is the query for columns of the jobs j that pass a filter, and of what
// is joined to them. Whatever is asked for, they are read in their order from an
// index that has few rows too many: of what is unfinished, of a tag, of a
// repository, of what went wrong, or of all.
func pickJobs(columns, join, orgID, repoID string, f scheduler.JobFilter) (text string, args []any) {
	open := len(f.States) > 0 && !slices.Contains(f.States, nimbus.StateFinished)
	tags, plain := tagsOf(f.Labels, f.Metadata)
	var c condition
	from, page := "jobs j", "j"
	if len(tags) > 0 && !open {
		from, page = "job_tags t JOIN jobs j ON j.id = t.job_id", "t"
		c.and("t.org_id = ? AND t.tag = ?", orgID, tags[0])
		tags = tags[1:]
	}
	key := map[string]string{"j": "j.id", "t": "t.job_id"}[page]
	c.and("j.org_id = ?", orgID)
	before := f.PageToken
	if before == "" {
		before = lastID
	}
	c.and(key+" < ?", before)
	if !f.Until.IsZero() {
		c.and(key+" < ?", nimbus.FirstID(nimbus.PrefixJob, f.Until))
	}
	if !f.Since.IsZero() {
		c.and(key+" >= ?", nimbus.FirstID(nimbus.PrefixJob, f.Since))
	}
	if open {
		c.and("j.finished_at = 0")
	}
	if len(f.States) > 0 {
		states := make([]any, len(f.States))
		for i, s := range f.States {
			states[i] = string(s)
		}
		c.and("j.state IN (?"+strings.Repeat(", ?", len(states)-1)+")", states...)
	}
	switch f.Result {
	case "":
	case nimbus.ResultSuccess:
		c.and("j.result = ?", string(f.Result))
	default: // as the index has it
		c.and("j.finished_at > 0 AND j.result <> 'success' AND j.result = ?", string(f.Result))
	}
	if repoID != "" {
		c.and("j.repo_id <> '' AND j.repo_id = ?", repoID)
	}
	for _, label := range plain {
		c.and("LOWER(j.labels) LIKE ?", `%"`+label+`"%`)
	}
	for _, tag := range tags {
		c.and("EXISTS (SELECT 1 FROM job_tags more WHERE more.job_id = j.id AND more.tag = ?)", tag)
	}
	c.args = append(c.args, f.PageSize)
	return fmt.Sprintf("SELECT %s FROM %s%s WHERE TRUE%s ORDER BY %s DESC LIMIT $%d", columns, from, join, c.text.String(), key, len(c.args)), c.args
}

// tagsOf is what jobs with these labels and this metadata are found by. Plain
// labels, which most jobs have, are no tags.
func tagsOf(labels []string, metadata map[string]string) (tags, plain []string) {
	for _, key := range slices.Sorted(maps.Keys(metadata)) {
		if value := metadata[key]; value != "" {
			tags = append(tags, "m:"+key+"="+value)
		} else {
			tags = append(tags, "m:"+key)
		}
	}
	for _, label := range labels {
		label = strings.ToLower(label)
		switch {
		case nimbus.IsPlainLabel(label):
			plain = append(plain, label)
		case !slices.Contains(tags, "l:"+label):
			tags = append(tags, "l:"+label)
		}
	}
	return tags, plain
}

// jobTags are the rows of a new job. A piece of metadata is found by its key
// alone as well.
func jobTags(j *scheduler.JobRecord) (rows [][]any) {
	tags, _ := tagsOf(j.Labels, j.Metadata)
	for key, value := range j.Metadata {
		if value != "" {
			tags = append(tags, "m:"+key)
		}
	}
	slices.Sort(tags)
	for _, tag := range slices.Compact(tags) {
		if len(tag) <= maxTagBytes {
			rows = append(rows, []any{j.ID, tag, j.OrgID})
		}
	}
	return rows
}

// maxTagBytes bounds what a job can be found by, below what an index takes.
const maxTagBytes = 2*nimbus.MaxLabelBytes + 2

// jobView is a job as people see it: with the phases of its current or last
// attempt.
type jobView struct {
	gen.Job
	hostID                                           string
	offeredAt, acceptedAt, sandboxReadyAt, runningAt int64
	firstOutputAt, destroyedAt                       int64
	exitCode                                         sql.NullInt64
	logStored                                        int64
	logComplete                                      bool
	heldUntil                                        int64
	outcome                                          string
}

const viewColumns = jobColumns + ", host_id, offered_at, accepted_at, sandbox_ready_at, running_at, first_output_at, destroyed_at, " +
	"exit_code, log_stored, log_complete, held_until, outcome"

func scanJobView(rows scanner, v *jobView) error {
	return rows.Scan(append(jobFields(&v.Job), &v.hostID, &v.offeredAt, &v.acceptedAt, &v.sandboxReadyAt, &v.runningAt,
		&v.firstOutputAt, &v.destroyedAt, &v.exitCode, &v.logStored, &v.logComplete, &v.heldUntil, &v.outcome)...)
}

// jobOfView is a job in the words of the scheduler.
func jobOfView(v jobView) (nimbus.Job, error) {
	r, err := jobRecord(v.Job)
	if err != nil {
		return nimbus.Job{}, err
	}
	j := r.Job
	j.HeldUntil = fromMicros(v.heldUntil)
	j.HostID, j.LogLines, j.LogComplete = v.hostID, v.logStored, v.logComplete
	j.Timeline.OfferedAt, j.Timeline.AcceptedAt = fromMicros(v.offeredAt), fromMicros(v.acceptedAt)
	if j.State == nimbus.StateFinished && v.acceptedAt == 0 {
		j.LogComplete = true // no host ran it: no line of it was ever written
	}
	j.Timeline.SandboxReadyAt, j.Timeline.RunningAt = fromMicros(v.sandboxReadyAt), fromMicros(v.runningAt)
	j.Timeline.FirstOutputAt, j.Timeline.DestroyedAt = fromMicros(v.firstOutputAt), fromMicros(v.destroyedAt)
	if v.exitCode.Valid {
		code := int(v.exitCode.Int64)
		j.ExitCode = &code
	}
	j.Usage, err = totalsOf(v.outcome)
	return j, err
}
