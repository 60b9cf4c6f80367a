package forge

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"

	nimbus "github.com/nimbus-ci/nimbus"
)

const (
	// maxScaleSetJobs bounds what is read of one message; GitHub says up to 50.
	maxScaleSetJobs = 1000
	headerCapacity  = "X-Scalesetmaxcapacity"
)

// sessionFields are those of a session that matter here.
type sessionFields struct {
	ID       string `json:"sessionId"`
	QueueURL string `json:"messageQueueUrl"`
	Token    string `json:"messageQueueAccessToken"`
}

func (f sessionFields) session() (nimbus.ScaleSetSession, error) {
	if !token(f.ID, maxDeliveryID) || link(f.QueueURL) == "" || f.Token == "" {
		return nimbus.ScaleSetSession{}, nimbus.Errorf(nimbus.CodeUnavailable, "GitHub answered without a session")
	}
	return nimbus.ScaleSetSession{ID: f.ID, QueueURL: f.QueueURL, Token: f.Token}, nil
}

// OpenSession begins to listen to a scale set. Codes: conflict while somebody
// else listens, not_found for a scale set that is gone.
func (a *App) OpenSession(ctx context.Context, set nimbus.ScaleSet, owner string) (nimbus.ScaleSetSession, error) {
	var f sessionFields
	err := a.service.call(ctx, keyOf(&set), scaleSetPath(&set, "/sessions"), nil, serviceCall{
		what: "open a message session", method: http.MethodPost, in: map[string]string{"ownerName": owner}, out: &f,
	})
	if err != nil {
		return nimbus.ScaleSetSession{}, err
	}
	return f.session()
}

// CloseSession ends a session, whoever opened it. One that is gone is fine.
func (a *App) CloseSession(ctx context.Context, set nimbus.ScaleSet, id string) error {
	err := a.service.call(ctx, keyOf(&set), scaleSetPath(&set, "/sessions/"+url.PathEscape(id)), nil,
		serviceCall{what: "close a message session", method: http.MethodDelete})
	if nimbus.ErrorCode(err) == nimbus.CodeNotFound {
		return nil
	}
	return err
}

// inSession makes a call of the session's, whose token is refreshed once where
// GitHub takes it no longer. Codes: not_found for a session that is over.
func (a *App) inSession(ctx context.Context, set nimbus.ScaleSet, s *nimbus.ScaleSetSession, do func() error) error {
	err := do()
	if nimbus.ErrorCode(err) != nimbus.CodeUnauthenticated {
		return err
	}
	var f sessionFields
	err = a.service.call(ctx, keyOf(&set), scaleSetPath(&set, "/sessions/"+url.PathEscape(s.ID)), nil,
		serviceCall{what: "refresh the message session", method: http.MethodPatch, out: &f})
	if err != nil {
		return err
	}
	if *s, err = f.session(); err != nil {
		return err
	}
	if err = do(); nimbus.ErrorCode(err) == nimbus.CodeUnauthenticated {
		return nimbus.Errorf(nimbus.CodeNotFound, "GitHub does not take the session's new token: %w", err)
	}
	return err
}

// NextMessage waits for a message after the last one; nil when none came. GitHub
// gives the scale set no more jobs at once than capacity. A message comes again
// until it is acknowledged.
func (a *App) NextMessage(ctx context.Context, set nimbus.ScaleSet, s *nimbus.ScaleSetSession, last int64, capacity int) (*nimbus.ScaleSetMessage, error) {
	var raw messageFields
	err := a.inSession(ctx, set, s, func() error {
		address, err := queueAddress(s, "", last)
		if err != nil {
			return err
		}
		raw = messageFields{}
		return a.service.do(ctx, serviceCall{
			what: "wait for messages", method: http.MethodGet, url: address, out: &raw, auth: "Bearer " + s.Token,
			header: http.Header{headerCapacity: {strconv.Itoa(capacity)}}, over: a.service.long, timeout: scaleSetPoll,
		})
	})
	if err != nil || raw.ID == 0 {
		return nil, err
	}
	return raw.message(set), nil
}

// Acknowledge says that a message was dealt with. One that is gone is fine.
func (a *App) Acknowledge(ctx context.Context, set nimbus.ScaleSet, s *nimbus.ScaleSetSession, id int64) error {
	return a.inSession(ctx, set, s, func() error {
		address, err := queueAddress(s, "/"+strconv.FormatInt(id, 10), 0)
		if err != nil {
			return err
		}
		return a.service.do(ctx, serviceCall{what: "acknowledge a message", method: http.MethodDelete, url: address, auth: "Bearer " + s.Token})
	})
}

// Acquire takes jobs that are available. GitHub gives those that nobody else
// took meanwhile.
func (a *App) Acquire(ctx context.Context, set nimbus.ScaleSet, s *nimbus.ScaleSetSession, requests []int64) error {
	return a.inSession(ctx, set, s, func() error {
		c, err := a.service.connection(ctx, keyOf(&set))
		if err != nil {
			return err
		}
		return a.service.do(ctx, serviceCall{
			what: "acquire jobs", method: http.MethodPost, in: requests, auth: "Bearer " + s.Token,
			url: c.url + "/" + scaleSetPath(&set, "/acquirejobs") + "?api-version=" + serviceVersion,
		})
	})
}

// queueAddress is one of the session's queue, which GitHub gave.
func queueAddress(s *nimbus.ScaleSetSession, rest string, last int64) (string, error) {
	u, err := url.Parse(s.QueueURL)
	if err != nil {
		return "", nimbus.Errorf(nimbus.CodeUnavailable, "GitHub gave a bad address of its queue")
	}
	u.Path += rest
	if last > 0 {
		q := u.Query()
		q.Set("lastMessageId", strconv.FormatInt(last, 10))
		u.RawQuery = q.Encode()
	}
	return u.String(), nil
}

// messageFields is a message as it comes: with a list in a text in an object.
type messageFields struct {
	ID         int64  `json:"messageId"`
	Body       string `json:"body"`
	Statistics struct {
		Assigned int `json:"totalAssignedJobs"`
		Running  int `json:"totalRunningJobs"`
	} `json:"statistics"`
}

// message reads what is known. What is not is left out rather than believed: a
// message that can't be read would come again for ever.
func (f messageFields) message(set nimbus.ScaleSet) *nimbus.ScaleSetMessage {
	out := &nimbus.ScaleSetMessage{ID: f.ID, Assigned: max(f.Statistics.Assigned, 0), Running: max(f.Statistics.Running, 0)}
	var jobs []json.RawMessage
	_ = json.Unmarshal([]byte(f.Body), &jobs) // see above
	for _, raw := range jobs[:min(len(jobs), maxScaleSetJobs)] {
		var j struct {
			Kind      string `json:"messageType"`
			RequestID int64  `json:"runnerRequestId"`
			Repo      string `json:"repositoryName"`
			Owner     string `json:"ownerName"`
			RunID     int64  `json:"workflowRunId"`
		}
		if json.Unmarshal(raw, &j) != nil || checkRepository(j.Owner, j.Repo) != nil || j.RunID <= 0 {
			continue
		}
		switch kind := nimbus.ScaleSetJobKind(j.Kind); kind {
		case nimbus.ScaleSetJobAvailable, nimbus.ScaleSetJobAssigned, nimbus.ScaleSetJobStarted, nimbus.ScaleSetJobCompleted:
			out.Jobs = append(out.Jobs, nimbus.ScaleSetJob{Kind: kind, RequestID: j.RequestID, RunID: j.RunID,
				Repo: nimbus.ForgeRepo{InstallationID: set.InstallationID, Owner: j.Owner, Name: j.Repo}})
		}
	}
	return out
}

// OpenSession is App.OpenSession of the scale set's App.
func (s *Apps) OpenSession(ctx context.Context, set nimbus.ScaleSet, owner string) (nimbus.ScaleSetSession, error) {
	app, err := s.of(ctx, set.InstallationID)
	if err != nil {
		return nimbus.ScaleSetSession{}, err
	}
	return app.OpenSession(ctx, set, owner)
}

// CloseSession is App.CloseSession of the scale set's App.
func (s *Apps) CloseSession(ctx context.Context, set nimbus.ScaleSet, id string) error {
	app, err := s.of(ctx, set.InstallationID)
	if err != nil {
		return err
	}
	return app.CloseSession(ctx, set, id)
}

// NextMessage is App.NextMessage of the scale set's App.
func (s *Apps) NextMessage(ctx context.Context, set nimbus.ScaleSet, in *nimbus.ScaleSetSession, last int64, capacity int) (*nimbus.ScaleSetMessage, error) {
	app, err := s.of(ctx, set.InstallationID)
	if err != nil {
		return nil, err
	}
	return app.NextMessage(ctx, set, in, last, capacity)
}

// Acknowledge is App.Acknowledge of the scale set's App.
func (s *Apps) Acknowledge(ctx context.Context, set nimbus.ScaleSet, in *nimbus.ScaleSetSession, id int64) error {
	app, err := s.of(ctx, set.InstallationID)
	if err != nil {
		return err
	}
	return app.Acknowledge(ctx, set, in, id)
}

// Acquire is App.Acquire of the scale set's App.
func (s *Apps) Acquire(ctx context.Context, set nimbus.ScaleSet, in *nimbus.ScaleSetSession, requests []int64) error {
	app, err := s.of(ctx, set.InstallationID)
	if err != nil {
		return err
	}
	return app.Acquire(ctx, set, in, requests)
}
