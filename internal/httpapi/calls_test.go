package httpapi_test

import (
	"net/http"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
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
	tokens["join"], _, err = p.identity.IssueJoin(t.Context(), 0)
	must(t, err)
	tokens["login"], err = p.identity.CreateLogin(t.Context())
	must(t, err)
	code, err := p.identity.CreateLogin(t.Context())
	must(t, err)
	tokens["session"], _, err = p.identity.RedeemLogin(t.Context(), code) // a cookie's, not a bearer's
	must(t, err)
	tokens["inert"], err = p.identity.IssueJob(t.Context(), nimbus.DefaultOrgID, "att_inert")
	must(t, err)
	for _, kind := range []string{"job", "revoked"} {
		tokens[kind], err = p.identity.IssueJob(t.Context(), nimbus.DefaultOrgID, "att_"+kind)
		must(t, err)
		must(t, p.identity.ActivateJob(t.Context(), "att_"+kind))
	}
	must(t, p.identity.RevokeJob(t.Context(), "att_revoked"))
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
