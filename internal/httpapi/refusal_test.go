package httpapi_test

import (
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// checkRefusal holds an answer against what docs/api.md promises of each.
func checkRefusal(t *testing.T, what string, got answer, status int, code nimbus.Code, says string) {
	t.Helper()
	if got.status != status || got.header.Get(wire.CodeHeader) != string(code) || got.header.Get(wire.HintHeader) == "" ||
		!strings.Contains(got.body, says) || !strings.HasPrefix(got.body, "{") || got.header.Get("Content-Type") != "application/json" {
		t.Errorf("%s: %d %s %v, want %d %s", what, got.status, got.body, got.header, status, code)
	}
}

// TestEveryRefusalHasCodeAndHint: also those that no handler of ours makes.
func TestEveryRefusalHasCodeAndHint(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	const submit = "/nimbus.v1.JobService/SubmitJob"
	post := func(path, body string, headers ...string) answer {
		return p.asAdmin(t, http.MethodPost, path, body, headers...)
	}
	for what, c := range map[string]struct {
		got    answer
		status int
		code   nimbus.Code
		says   string
	}{
		"broken JSON":     {post(submit, `{"name":`), http.StatusBadRequest, nimbus.CodeInvalid, "can't be read"},
		"no body":         {post(submit, ""), http.StatusBadRequest, nimbus.CodeInvalid, "empty"},
		"unknown field":   {post(submit, `{"nam":"x"}`), http.StatusBadRequest, nimbus.CodeInvalid, `unknown field \"nam\"`},
		"unknown state":   {post(listJobs, `{"states":["JOB_STATE_BOGUS"]}`), http.StatusBadRequest, nimbus.CodeInvalid, `states: \"JOB_STATE_BOGUS\"`},
		"with charset":    {post(listJobs, `{"x":1}`, "Content-Type", "application/json; charset=utf-8"), http.StatusBadRequest, nimbus.CodeInvalid, `unknown field \"x\"`},
		"broken protobuf": {post(listJobs, "\xff\xff", "Content-Type", "application/proto"), http.StatusBadRequest, nimbus.CodeInvalid, ""},
		"another type":    {post(listJobs, "a: b", "Content-Type", "text/yaml"), http.StatusBadRequest, nimbus.CodeInvalid, "can't be read"},
		"another method":  {p.asAdmin(t, http.MethodPut, listJobs, "{}"), http.StatusBadRequest, nimbus.CodeInvalid, "POST"},
		"no such call":    {post("/nimbus.v1.JobService/Bogus", "{}"), http.StatusNotFound, nimbus.CodeNotFound, "there is no call"},
		"no such service": {post("/nimbus.v1.Bogus/Bogus", "{}"), http.StatusNotFound, nimbus.CodeNotFound, "there is no call"},
		"no such path":    {p.asAdmin(t, http.MethodGet, "/api/v1/bogus", ""), http.StatusNotFound, nimbus.CodeNotFound, "there is nothing"},
		"nothing to post": {post("/bogus", "{}"), http.StatusNotFound, nimbus.CodeNotFound, "there is nothing"},
	} {
		checkRefusal(t, what, c.got, c.status, c.code, c.says)
	}
}

// TestAnOlderServerIsKnown: hosts and clients go on without a call that the
// server does not have, while it is being upgraded.
func TestAnOlderServerIsKnown(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	for _, procedure := range []string{"/nimbus.v1.JobService/Future", "/nimbus.v1.FutureService/Call"} {
		future := connect.NewClient[nimbusv1.GetJobRequest, nimbusv1.GetJobResponse](http.DefaultClient, p.url+procedure,
			connect.WithInterceptors(wire.Caller{Token: func() string { return p.admin }}))
		if _, err := future.CallUnary(t.Context(), connect.NewRequest(&nimbusv1.GetJobRequest{})); nimbus.ErrorCode(err) != nimbus.CodeUnsupported {
			t.Errorf("%s: %v is %s", procedure, err, nimbus.ErrorCode(err))
		}
	}
}
