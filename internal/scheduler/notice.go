package scheduler

import (
	"cmp"
	"context"
	"net/url"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
)

const (
	// noHostGrace is how long a job may lack a host before the person who
	// pushed is told: hosts come back from an upgrade within seconds.
	noHostGrace = 30 * time.Second
	// A notice that GitHub could not take is tried again after noticeRetry,
	// twice that, and so on, noticeTries times in all: about a day.
	noticeRetry = 30 * time.Second
	noticeTries = 12
	// noticeTaken keeps others from telling the same meanwhile.
	noticeTaken = time.Minute
)

// Notice is what is to be told of a job at GitHub, or was.
type Notice struct {
	JobID   string
	DueAt   time.Time // when to look whether there is something new; zero: nothing
	Tries   int       // how often that failed
	CheckID int64     // of the check run, 0 for none yet
	Said    string    // what it says; "" nothing
}

// CheckRuns are what a Forge may be able to do besides: to show, at the commit
// of a job, why that job can't run.
type CheckRuns interface {
	// ShowCheck makes a check run, or changes the one with c.ID, and returns its
	// id.
	ShowCheck(ctx context.Context, job nimbus.GitHubJob, c nimbus.Check) (id int64, err error)
}

// noticed has it looked later whether the person who pushed should be told of
// a move: of a job that can't run, of one that can again, and of one that ended
// by a fault that is not its own.
func (u *unit) noticed(ctx context.Context, j *JobRecord, from nimbus.State, m Move) error {
	if j.Source != nimbus.SourceGitHub {
		return nil
	}
	at := u.now
	switch {
	case m.To == nimbus.StateUnschedulable:
		if m.Reason.Code == nimbus.ReasonNoHost {
			at = at.Add(noHostGrace)
		}
	case from == nimbus.StateUnschedulable:
	case m.To == nimbus.StateFinished && m.Reason.Code != "":
	default:
		return nil
	}
	return u.ScheduleNotice(ctx, j.ID, at)
}

// notify tells GitHub what is new of a job. GitHub is called outside any
// transaction.
func (s *Service) notify(ctx context.Context, jobID string) error {
	var n Notice
	var job nimbus.GitHubJob
	var check *nimbus.Check
	err := s.update(ctx, func(u *unit) (err error) {
		job, n, check, err = u.news(ctx, jobID)
		return err
	})
	if err != nil || check == nil {
		return err
	}
	asking, cancel := context.WithTimeout(ctx, forgeTimeout)
	defer cancel()
	id, shown := s.checks.ShowCheck(asking, job, *check)
	return s.update(ctx, func(u *unit) error {
		j, err := u.LockJob(ctx, jobID)
		if err != nil {
			return err
		}
		now, err := u.Notice(ctx, jobID)
		if err != nil {
			return err
		}
		newer := !now.DueAt.Equal(n.DueAt) // there is more to tell by now
		n.answered(u.now, id, check.Says(), shown)
		if newer {
			n.DueAt = now.DueAt
		}
		if err := u.SaveNotice(ctx, n); err != nil || shown == nil || !n.DueAt.IsZero() {
			return err
		}
		return u.note(ctx, j, "not_told", "", actorGitHub, "GitHub did not take a check run: "+shown.Error())
	})
}

// news is what is to be told of a job that is not known yet; a nil check is
// nothing. Nobody else tells it for noticeTaken.
func (u *unit) news(ctx context.Context, jobID string) (nimbus.GitHubJob, Notice, *nimbus.Check, error) {
	j, err := u.LockJob(ctx, jobID)
	if err != nil {
		return nimbus.GitHubJob{}, Notice{}, nil, err
	}
	n, err := u.Notice(ctx, jobID)
	if err != nil || n.DueAt.IsZero() || n.DueAt.After(u.now) {
		return nimbus.GitHubJob{}, n, nil, err
	}
	again, err := u.rerunSays(ctx, j)
	if err != nil {
		return nimbus.GitHubJob{}, n, nil, err
	}
	check := u.cfg.check(j, again)
	if check == nil && n.Said != "" { // it was told of a fault that is gone
		check = u.cfg.wellAgain(j)
	}
	if check == nil || check.Says() == n.Said {
		n.DueAt, check = time.Time{}, nil
	} else {
		n.DueAt, check.ID = u.now.Add(noticeTaken), n.CheckID
	}
	return j.GitHub, n, check, u.SaveNotice(ctx, n)
}

// answered sets what is known once GitHub was told, or was not.
func (n *Notice) answered(now time.Time, id int64, says string, err error) {
	switch code := nimbus.ErrorCode(err); {
	case err == nil:
		n.CheckID, n.Said, n.Tries, n.DueAt = id, says, 0, time.Time{}
	case code == nimbus.CodeNotFound && n.CheckID != 0: // it was deleted: a new one is made
		n.CheckID, n.DueAt = 0, now
	case code != nimbus.CodeUnavailable && code != nimbus.CodeInternal && code != nimbus.CodeRateLimited || n.Tries+1 >= noticeTries:
		n.DueAt = time.Time{}
	default:
		wait := max(noticeRetry<<n.Tries, nimbus.ErrorRetryAfter(err))
		n.Tries++
		n.DueAt = now.Add(wait)
	}
}

// rerunSays is what the person who pushed should know of how a lost job, or one
// that never began, goes on;
// "" where that is theirs to decide.
func (u *unit) rerunSays(ctx context.Context, j *JobRecord) (string, error) {
	if j.held() {
		return u.heldSays(ctx, j)
	}
	r, err := u.RerunOfJob(ctx, j.ID)
	if err != nil || r == nil {
		return "", err
	}
	switch r.State {
	case RerunWaiting, RerunAsking:
		return "Nimbus has GitHub run it again as soon as the run is over.", nil
	case RerunDone:
		return "Nimbus had GitHub run it again.", nil
	case RerunDropped:
	}
	return "It is not run again by itself: " + sentence(r.Why), nil
}

// check is what the person who pushed should know of a job, and how it goes on;
// nil for nothing.
func (c Config) check(j *JobRecord, again string) *nimbus.Check {
	out := &nimbus.Check{Name: checkName(j), URL: c.jobURL(j)}
	switch {
	case j.State == nimbus.StateUnschedulable && j.Reason.Code != nimbus.ReasonForge && j.Reason.Code != nimbus.ReasonRanElsewhere:
		out.Conclusion, out.Title = nimbus.CheckActionRequired, "Nimbus can't run this job"
		out.Summary = sentence(j.Reason.Message) + " " + cmp.Or(again, whatToDo(j.Reason.Code))
	case j.State == nimbus.StateFinished && faulty(j):
		out.Conclusion, out.Title = nimbus.CheckFailure, "The job did not run to its end, by no fault of its own"
		out.Summary = sentence(j.Reason.Message) + " " + cmp.Or(again, whatToDo(j.Reason.Code))
	default:
		return nil
	}
	return out
}

func (c Config) wellAgain(j *JobRecord) *nimbus.Check {
	return &nimbus.Check{Name: checkName(j), URL: c.jobURL(j), Conclusion: nimbus.CheckNeutral,
		Title: "The job went on", Summary: "What kept it from running is gone."}
}

// faulty tells whether a job ended by a fault that is not its own.
func faulty(j *JobRecord) bool {
	switch j.Result {
	case nimbus.ResultFailure, nimbus.ResultTimedOut, nimbus.ResultLost:
	default:
		return false
	}
	switch j.Reason.Code {
	case nimbus.ReasonNone, nimbus.ReasonTimeout, nimbus.ReasonRanElsewhere, nimbus.ReasonCancelledByForge, nimbus.ReasonCancelledByUser:
		return false
	}
	return true
}

func whatToDo(code nimbus.ReasonCode) string {
	switch code {
	case nimbus.ReasonUnknownLabel, nimbus.ReasonContradiction:
		return "Change `runs-on` of the job in its workflow file."
	case nimbus.ReasonNoHost, nimbus.ReasonQueueTimeout:
		return "It starts as soon as there is such a host: ask who runs Nimbus for you, or change `runs-on`."
	case nimbus.ReasonImageNotFound:
		return "Change the image in `runs-on`, or ask who runs Nimbus for you to add it."
	case nimbus.ReasonUntrusted:
		return "Ask who runs Nimbus for you for a host with microVMs."
	case nimbus.ReasonLimit, nimbus.ReasonOutputLimit:
		return "Ask for more in `runs-on`, like `cpu:4` and `memory:8`."
	}
	return "Re-run the failed jobs to try again."
}

func sentence(text string) string {
	if text = strings.TrimSpace(text); text != "" && !strings.HasSuffix(text, ".") {
		text += "."
	}
	return text
}

func checkName(j *JobRecord) string {
	if j.GitHub.WorkflowName == "" {
		return "Nimbus: " + j.Name
	}
	return "Nimbus: " + j.GitHub.WorkflowName + " / " + j.Name
}

// jobURL is the job's page, where it is known under which address.
func (c Config) jobURL(j *JobRecord) string {
	if c.PublicURL == "" {
		return ""
	}
	return strings.TrimRight(c.PublicURL, "/") + "/jobs/" + url.PathEscape(j.ID)
}
