package githubtest_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/actions/scaleset"

	nimbus "github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest"
)

// TestScaleSetsAsTheirLibrarySeesThem: GitHub's own client of scale sets works
// with the double, so that what the double has is what that client expects.
func TestScaleSetsAsTheirLibrarySeesThem(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Grant(grant())
	w.AddRepository("octo-org", "web")
	client, err := scaleset.NewClientWithGitHubApp(scaleset.ClientWithGitHubAppConfig{
		GitHubConfigURL: w.URL() + "/octo-org",
		GitHubAppAuth:   scaleset.GitHubAppAuth{ClientID: "1001", InstallationID: 2002, PrivateKey: string(w.PrivateKey())},
	}, scaleset.WithRetryMax(1), scaleset.WithRetryWaitMax(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	made, err := client.CreateRunnerScaleSet(w.ctx, &scaleset.RunnerScaleSet{Name: "big", RunnerGroupID: 1, Labels: []scaleset.Label{{Name: "nimbus"}, {Name: "x64"}}})
	must(err)
	found, err := client.GetRunnerScaleSet(w.ctx, 1, "big")
	must(err)
	if found == nil || found.ID != made.ID || len(found.Labels) != 2 {
		t.Fatalf("%+v", found)
	}
	session, err := client.MessageSessionClient(w.ctx, made.ID, "library")
	must(err)
	if _, err := client.MessageSessionClient(w.ctx, made.ID, "another"); err == nil || !strings.Contains(err.Error(), "active session of library") {
		t.Errorf("a second session: %v", err)
	}
	run := w.push(project(oneJob))
	message, err := session.GetMessage(w.ctx, 0, 10)
	must(err)
	if len(message.JobAvailableMessages) != 1 || message.JobAvailableMessages[0].WorkflowRunID != run.ID || message.Statistics.TotalAvailableJobs != 1 {
		t.Fatalf("%+v", message)
	}
	again, err := session.GetMessage(w.ctx, 0, 10)
	must(err)
	if again.MessageID != message.MessageID {
		t.Errorf("a message that was not deleted is not sent again, but %d", again.MessageID)
	}
	w.ExpireSessionTokens() // the library refreshes them, too
	must(session.DeleteMessage(w.ctx, message.MessageID))
	got, err := session.AcquireJobs(w.ctx, []int64{message.JobAvailableMessages[0].RunnerRequestID})
	if err == nil && len(got) != 1 {
		t.Errorf("acquired %v", got)
	}
	must(err)
	message, err = session.GetMessage(w.ctx, message.MessageID, 10)
	must(err)
	if len(message.JobAssignedMessages) != 1 || message.Statistics.TotalAssignedJobs != 1 {
		t.Fatalf("%+v", message)
	}
	jit, err := client.GenerateJitRunnerConfig(w.ctx, &scaleset.RunnerScaleSetJitRunnerSetting{Name: "r1", WorkFolder: "_work"}, made.ID)
	must(err)
	if _, err := client.GenerateJitRunnerConfig(w.ctx, &scaleset.RunnerScaleSetJitRunnerSetting{Name: "r1"}, made.ID); !errors.Is(err, scaleset.RunnerExistsError) {
		t.Errorf("a name that is taken: %v", err)
	}
	c, err := w.Connect(jit.EncodedJITConfig)
	must(err)
	if _, ok, err := c.Job(); err != nil || !ok {
		t.Fatalf("no job: %v", err)
	}
	must(c.Finish("success"))
	message, err = session.GetMessage(w.ctx, message.MessageID, 10)
	must(err)
	if len(message.JobStartedMessages) != 1 || len(message.JobCompletedMessages) != 1 || message.JobCompletedMessages[0].RunnerName != "r1" ||
		message.JobCompletedMessages[0].Result != "succeeded" {
		t.Errorf("%+v", message)
	}
	must(session.Close(w.ctx))
	must(client.DeleteRunnerScaleSet(w.ctx, made.ID))
}

// TestScaleSetClient: what our own client does where the service is in trouble.
func TestScaleSetClient(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Grant(grant())
	w.AddRepository("octo-org", "web")
	set := nimbus.ScaleSet{InstallationID: 2002, Organization: "octo-org", GroupID: 1, Name: "s", Labels: []string{"nimbus", "x64"}, MaxRunners: 1}
	// A registration token that is not known everywhere yet.
	w.Refuse(githubtest.Refusal{Operation: "service/register", Status: http.StatusForbidden})
	var err error
	if set.GitHubID, err = w.app.MakeScaleSet(w.ctx, set); err != nil {
		t.Fatal(err)
	}
	if again, err := w.app.MakeScaleSet(w.ctx, set); err != nil || again != set.GitHubID {
		t.Errorf("made again: %d, %v", again, err)
	}
	others := set
	others.Labels = []string{"nimbus"}
	_, err = w.app.MakeScaleSet(w.ctx, others)
	code(t, err, nimbus.CodeConflict, "other labels")
	s, err := w.app.OpenSession(w.ctx, set, "one")
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.app.OpenSession(w.ctx, set, "two")
	code(t, err, nimbus.CodeConflict, "active session of one")

	// Within its capacity: the second job waits at GitHub.
	jobs := w.push(project(strings.Replace(oneJob, "jobs:", "jobs:\n  other:\n    runs-on: [nimbus]\n    steps: [{run: echo}]", 1))).Jobs
	m, err := w.app.NextMessage(w.ctx, set, &s, 0, set.MaxRunners)
	if err != nil || len(m.Jobs) != len(jobs) {
		t.Fatalf("%+v, %v", m, err)
	}
	var requests []int64
	for _, j := range m.Jobs {
		requests = append(requests, j.RequestID)
	}
	before := s.Token
	w.ExpireServiceTokens()
	if err := w.app.Acquire(w.ctx, set, &s, requests); err != nil || s.Token == before {
		t.Errorf("acquired after tokens ended: %v", err)
	}
	if err := w.app.Acknowledge(w.ctx, set, &s, m.ID); err != nil {
		t.Error(err)
	}
	if m, err = w.app.NextMessage(w.ctx, set, &s, m.ID, set.MaxRunners); err != nil || m.Assigned != 1 || len(m.Jobs) != 1 {
		t.Errorf("%+v, %v", m, err)
	}

	// A session that somebody ended can't be refreshed.
	if err := w.app.CloseSession(w.ctx, set, s.ID); err != nil {
		t.Error(err)
	}
	if err := w.app.CloseSession(w.ctx, set, s.ID); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	_, err = w.app.NextMessage(w.ctx, set, &s, 0, 1)
	code(t, err, nimbus.CodeNotFound, "no such session")
	w.Refuse(githubtest.Refusal{Operation: "service/create-session", Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"9"}}})
	_, err = w.app.OpenSession(w.ctx, set, "three")
	if code(t, err, nimbus.CodeUnavailable, ""); nimbus.ErrorRetryAfter(err) != 9*time.Second {
		t.Errorf("wait %v", nimbus.ErrorRetryAfter(err))
	}
	w.Grant(map[string]string{"actions": "read", "metadata": "read"})
	other := set
	other.Organization = "somebody"
	_, err = w.app.MakeScaleSet(w.ctx, other)
	code(t, err, nimbus.CodeForbidden, "not accessible")
}
