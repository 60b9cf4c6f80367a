package httpapi_test

import (
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// TestNULIsRefusedByName: PostgreSQL can't keep it, which was once a fault of
// ours. The answer is the same on both engines, and names the field.
func TestNULIsRefusedByName(t *testing.T) {
	t.Parallel()
	for engine, start := range map[string]func(*testing.T) *plane{
		"sqlite":   func(t *testing.T) *plane { t.Helper(); return startPlane(t) },
		"postgres": startReplica,
	} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			p := start(t)
			for _, c := range []struct{ call, body, field string }{
				{"JobService/ListJobs", `{"labels":["a\u0000b"]}`, "labels"},
				{"JobService/ListJobs", `{"repo":"o/\u0000"}`, "repo"},
				{"JobService/ListJobs", `{"metadata":{"k\u0000":"v"}}`, "metadata"},
				{"JobService/ListJobs", `{"metadata":{"k":"\u0000"}}`, "metadata"},
				{"JobService/SummarizeJobs", `{"key":"\u0000"}`, "key"},
				{"JobService/GetJob", `{"jobId":"\u0000"}`, "jobId"},
				{"JobService/SubmitJob", `{"spec":{"command":["true"]},"idempotencyKey":"\u0000"}`, "idempotencyKey"},
				{"JobService/SubmitJob", `{"spec":{"command":["echo","\u0000"]}}`, "command"},
				{"JobService/SubmitJob", `{"spec":{"command":["true"],"env":{"A":"\u0000"}}}`, "env"},
				{"QueueService/SetLimit", `{"kind":"LIMIT_KIND_LABEL","name":"\u0000","most":1}`, "name"},
				{"QueueService/DeleteLimit", `{"kind":"LIMIT_KIND_LABEL","name":"\u0000"}`, "name"},
			} {
				got := p.asAdmin(t, http.MethodPost, "/nimbus.v1."+c.call, c.body)
				if got.status != http.StatusBadRequest || got.header.Get("Nimbus-Code") != string(nimbus.CodeInvalid) ||
					!strings.Contains(got.body, c.field+" holds a NUL") {
					t.Errorf("%s %s: %d %s", c.call, c.body, got.status, got.body)
				}
			}
			h := p.join(t)
			lease := &nimbusv1.Lease{AttemptId: "att_\x00", Fence: 1}
			_, err := h.Heartbeat(t.Context(), connect.NewRequest(&nimbusv1.HeartbeatRequest{Leases: []*nimbusv1.Lease{lease}}))
			if nimbus.ErrorCode(err) != nimbus.CodeInvalid || !strings.Contains(err.Error(), "attemptId") {
				t.Errorf("a heartbeat: %v", err)
			}
			_, err = h.Accept(t.Context(), connect.NewRequest(&nimbusv1.AcceptRequest{Lease: lease}))
			if nimbus.ErrorCode(err) != nimbus.CodeInvalid || !strings.Contains(err.Error(), "attemptId") {
				t.Errorf("an accept: %v", err)
			}
			p.jobWithNULInLog(t, h)
		})
	}
}

// jobWithNULInLog: what a job writes may be anything.
func (p *plane) jobWithNULInLog(t *testing.T, h hostPlayer) {
	t.Helper()
	j := p.submit(t)
	lease := h.accept(t)
	h.writeText(t, lease, "a\x00b")
	h.finish(t, lease, 1)
	got := p.asAdmin(t, http.MethodGet, "/api/v1/jobs/"+j.ID+"/log?format=text", "")
	if got.status != http.StatusOK || got.body != "a\x00b\n" {
		t.Errorf("the log: %d %q", got.status, got.body)
	}
}

// TestTheStoreRefusesNULToo: what gets past the door is no fault of ours either.
func TestTheStoreRefusesNULToo(t *testing.T) {
	t.Parallel()
	_, err := startReplica(t).scheduler.Jobs(t.Context(), nimbus.DefaultOrgID, scheduler.JobFilter{Repo: "octo/\x00"})
	if nimbus.ErrorCode(err) != nimbus.CodeInvalid {
		t.Errorf("a filter with a NUL: %v", err)
	}
}
