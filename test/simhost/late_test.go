package simhost_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/test/simhost"
)

// TestPretend: what is pretended is believed where it is true, and nowhere else.
func TestPretend(t *testing.T) {
	t.Parallel()
	p, r := newPlane(t), &simhost.Records{}
	m := p.machine(r)
	p.submit(time.Hour)
	p.await("the job runs", living(r))
	other := p.machine(r)
	e := r.Executions()[0]
	own := &nimbusv1.Lease{AttemptId: e.AttemptID, Fence: e.Fence}
	if e.HostID != m.ID {
		t.Fatalf("%+v", e)
	}
	for what, taken := range map[string][]string{
		"another's": other.Pretend(t.Context(), own, simhost.Crashed()),
		"old":       m.Pretend(t.Context(), &nimbusv1.Lease{AttemptId: e.AttemptID, Fence: e.Fence - 1}, simhost.Done()),
	} {
		if len(taken) != 0 {
			t.Errorf("%s: %q was taken", what, taken)
		}
	}
	if diff := cmp.Diff([]string{"renewal", "start", "line", "end"}, m.Pretend(t.Context(), own, simhost.Done())); diff != "" {
		t.Errorf("of its own (-want +got):\n%s", diff)
	}
}
