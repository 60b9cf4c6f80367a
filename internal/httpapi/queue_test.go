package httpapi_test

import (
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/api/gen/nimbus/v1/nimbusv1connect"
	"github.com/nimbus-ci/nimbus/client"
)

// TestQueueOverTheAPI goes through everything about the queue as the command
// line does.
func TestQueueOverTheAPI(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	h := p.join(t)
	c, err := client.New(client.Config{Server: p.url, Token: p.admin})
	must(t, err)
	t.Cleanup(c.Close)
	ctx := t.Context()
	must(t, c.SetLimit(ctx, nimbus.LimitOrg, "", 1))
	must(t, c.SetLimit(ctx, nimbus.LimitLabel, "GPU", 0))
	wantCode(t, nimbus.CodeInvalid, c.SetLimit(ctx, nimbus.LimitRepo, "", 1))
	must(t, c.SetOrgWeight(ctx, nimbus.DefaultOrg, 150))
	wantCode(t, nimbus.CodeNotFound, c.SetRepoWeight(ctx, "a/b", 150))
	wantCode(t, nimbus.CodeNotFound, c.SetOrgWeight(ctx, "nobody", 150))
	weights, err := c.Weights(ctx)
	must(t, err)
	if len(weights) != 1 || weights[0] != (nimbus.Weight{Percent: 150}) {
		t.Errorf("%+v", weights)
	}
	sub := client.Submission{Class: nimbus.Class{Executor: nimbus.ExecutorLocal}, Spec: nimbus.Spec{Command: []string{"true"}}}
	first, err := c.Submit(ctx, sub)
	must(t, err)
	sub.Priority, sub.IdempotencyKey = 4, "key"
	second, err := c.Submit(ctx, sub)
	must(t, err)
	lease := h.accept(t)
	j, place, err := c.JobInLine(ctx, second.ID)
	must(t, err)
	if j.Priority != 4 || place == nil || place.Unknown == "" || !place.StartAt.IsZero() {
		t.Errorf("behind the limit: %+v %+v", j, place)
	}
	j, err = c.SetPriority(ctx, second.ID, -3)
	must(t, err)
	if j.Priority != -3 {
		t.Errorf("%+v", j)
	}
	sub.Name = "another"
	_, err = c.Submit(ctx, sub)
	wantCode(t, nimbus.CodeConflict, err)
	queue, err := c.Queue(ctx)
	must(t, err)
	if len(queue) != 1 || queue[0].Waiting != 1 || queue[0].Running != 1 || queue[0].HostsReady != 1 || queue[0].OldestAt.IsZero() {
		t.Errorf("%+v", queue)
	}
	limits, err := c.Limits(ctx)
	must(t, err)
	if len(limits) != 2 || limits[0].Name != "gpu" || limits[1].Used != 1 {
		t.Errorf("%+v", limits)
	}
	_, err = c.Rerun(ctx, first.ID, "")
	wantCode(t, nimbus.CodeConflict, err)
	h.finish(t, lease, 0)
	_, place, err = c.JobInLine(ctx, first.ID)
	must(t, err)
	if place != nil {
		t.Errorf("a job that is over has a place: %+v", place)
	}
	j, err = c.Rerun(ctx, first.ID, "again")
	must(t, err)
	if j.RerunOf != first.ID {
		t.Errorf("%+v", j)
	}
	must(t, c.DeleteLimit(ctx, nimbus.LimitOrg, ""))
	wantCode(t, nimbus.CodeNotFound, c.DeleteLimit(ctx, nimbus.LimitOrg, ""))
	if got := p.asAdmin(t, http.MethodPost, "/nimbus.v1.QueueService/SetRepoWeight", `{"percent":5}`); got.status != http.StatusBadRequest {
		t.Errorf("the weight of no repository: %d %s", got.status, got.body)
	}
}

func wantCode(t *testing.T, code nimbus.Code, err error) {
	t.Helper()
	if got := nimbus.ErrorCode(err); got != code {
		t.Errorf("error %v has code %q, want %q", err, got, code)
	}
}

// TestHostOfAnotherVersion: one that is too far away is told what to do; what a
// newer one says beyond what is known here is ignored.
func TestHostOfAnotherVersion(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	for protocol, welcome := range map[int32]bool{0: true, nimbus.AgentProtocol: true, nimbus.AgentProtocol + 1: true, nimbus.AgentProtocol + 2: false} {
		join, _, err := p.identity.IssueJoin(t.Context(), nimbus.Principal{}, 0)
		must(t, err)
		nobody := nimbusv1connect.NewAgentServiceClient(http.DefaultClient, p.url)
		_, err = nobody.Join(t.Context(), connect.NewRequest(&nimbusv1.JoinRequest{JoinToken: join, Name: "h", Version: "v9",
			Inventory: &nimbusv1.Inventory{Arch: "amd64", Cpus: 1, MemoryMib: 1024, Protocol: protocol}}))
		if welcome != (err == nil) || err != nil && !strings.Contains(err.Error(), "too new") {
			t.Errorf("version %d: %v", protocol, err)
		}
	}
	h := p.join(t)
	// A field that is not known here, as a newer host would send it.
	newer := &nimbusv1.HelloRequest{Version: "v9", Inventory: &nimbusv1.Inventory{Arch: "amd64", Cpus: 1, MemoryMib: 1024}}
	newer.ProtoReflect().SetUnknown(protowire.AppendString(protowire.AppendTag(nil, 9999, protowire.BytesType), "from the future"))
	if _, err := h.Hello(t.Context(), connect.NewRequest(newer)); err != nil {
		t.Errorf("unknown fields are not ignored: %v", err)
	}
	old := p.ask(t, http.MethodPost, "/nimbus.v1.AgentService/Hello", `{"inventory":{"arch":"amd64","cpus":1,"memoryMib":1024,"protocol":99}}`,
		"Authorization", "Bearer "+h.token)
	if old.header.Get("Nimbus-Code") != string(nimbus.CodeUnsupported) || old.header.Get("Nimbus-Hint") == "" {
		t.Errorf("%d %v %s", old.status, old.header, old.body)
	}
}
