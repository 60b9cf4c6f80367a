package httpapi_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// calls are all procedures of the API description with who may call each: a
// service is for one kind of caller. A new one is tried without being named here.
func calls() map[string]string {
	who := map[protoreflect.FullName]string{
		"nimbus.v1.JobService": "admin", "nimbus.v1.HostService": "admin", "nimbus.v1.AgentService": "host",
	}
	out := map[string]string{}
	for _, file := range []protoreflect.FileDescriptor{
		nimbusv1.File_nimbus_v1_job_proto, nimbusv1.File_nimbus_v1_host_proto, nimbusv1.File_nimbus_v1_agent_proto,
	} {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for k := range service.Methods().Len() {
				out["POST /"+string(service.FullName())+"/"+string(service.Methods().Get(k).Name())] = who[service.FullName()]
			}
		}
	}
	delete(out, "POST /nimbus.v1.AgentService/Join") // its token is in its body
	return out
}

// TestEveryKindOfTokenOnEveryCall: a call answers its own kind of caller alone,
// and tells those who are nobody from those who may not.
func TestEveryKindOfTokenOnEveryCall(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	tokens := map[string]string{"none": "", "admin": p.admin, "host": p.join(t).token}
	var err error
	tokens["join"], _, err = p.identity.IssueJoin(t.Context(), identity.Root(), 0)
	must(t, err)
	tokens["login"], err = p.identity.CreateLogin(t.Context(), identity.Root(), "")
	must(t, err)
	code, err := p.identity.CreateLogin(t.Context(), identity.Root(), "")
	must(t, err)
	tokens["session"], _, err = p.identity.RedeemLogin(t.Context(), code) // a cookie's, not a bearer's
	must(t, err)
	tokens["inert"] = p.jobToken(t)
	tokens["job"] = p.jobToken(t, nimbus.PhaseStarted)
	tokens["revoked"] = p.jobToken(t, nimbus.PhaseStarted, finished)
	known := map[string]bool{"admin": true, "host": true, "job": true}
	if len(calls()) < 15 {
		t.Fatalf("only %v are described", calls())
	}
	for call, allowed := range calls() {
		method, path, _ := strings.Cut(call, " ")
		for kind, token := range tokens {
			got := p.ask(t, method, path, "{}", "Authorization", "Bearer "+token)
			switch {
			case kind == allowed:
				if got.status == http.StatusUnauthorized || got.status >= http.StatusInternalServerError {
					t.Errorf("%s with a %s token: %d %s", call, kind, got.status, got.body)
				}
			case known[kind] && got.status != http.StatusForbidden, !known[kind] && got.status != http.StatusUnauthorized:
				t.Errorf("%s with a %s token: %d %s", call, kind, got.status, got.body)
			}
		}
	}
}

// finished stands for the end of an attempt in a list of its phases.
const finished = nimbus.Phase("finished")

// jobToken is the token of a job whose attempt has reached phases.
func (p *plane) jobToken(t *testing.T, phases ...nimbus.Phase) string {
	t.Helper()
	ctx := t.Context()
	h, err := p.scheduler.RegisterHost(ctx, "h", "test", nimbus.Inventory{Arch: "amd64", CPUs: 1, MemoryMiB: 1024,
		Executors: []nimbus.ExecutorStatus{{Name: nimbus.ExecutorLocal, Available: true}}})
	must(t, err)
	_, err = p.scheduler.Submit(ctx, nimbus.Principal{Kind: nimbus.PrincipalAdmin}, scheduler.Submission{
		Class: nimbus.Class{Executor: nimbus.ExecutorLocal}, Spec: nimbus.Spec{Command: []string{"true"}}})
	must(t, err)
	work, err := p.scheduler.Poll(ctx, h.ID, nimbus.Capacity{CPUs: 1, MemoryMiB: 1024, Sandboxes: 1}, 10*time.Second)
	must(t, err)
	if len(work.Offers) != 1 {
		t.Fatalf("offered %d jobs", len(work.Offers))
	}
	lease := work.Offers[0].Lease
	as, err := p.scheduler.Accept(ctx, h.ID, lease)
	must(t, err)
	for _, phase := range phases {
		if phase == finished {
			must(t, p.scheduler.Finish(ctx, h.ID, lease, nimbus.Outcome{Result: nimbus.ResultSuccess}))
			continue
		}
		must(t, p.scheduler.ReportPhase(ctx, h.ID, lease, phase))
	}
	return as.JobToken
}
