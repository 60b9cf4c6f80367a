package httpapi_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// TestOutline is asked for while a log grows: each answer has all that there was.
func TestOutline(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	h, j := p.join(t), p.submit(t)
	path := "/api/v1/jobs/" + j.ID + "/log/outline"
	if got := p.asAdmin(t, http.MethodGet, path, ""); got.status != http.StatusOK || !strings.Contains(got.body, `"sections":[]`) {
		t.Errorf("of a job that waits: %d %s", got.status, got.body)
	}
	lease := h.accept(t)
	at := timestamppb.Now()
	steps := []*nimbusv1.Line{
		{Seq: 1, At: at, Stream: "step", Step: 1, Text: []byte("Build")},
		{Seq: 2, At: at, Stream: "stdout", Step: 1, Group: 1, Text: []byte("::group::Compile <it>")},
		{Seq: 3, At: at, Stream: "stdout", Step: 1, Group: 1, Text: []byte("cc")},
		{Seq: 4, At: at, Stream: "step", Step: 2, Text: []byte("Test")},
	}
	want := []string{
		`{"kind":"step","id":1,"first":1,"last":%s,"title":"Build"}`,
		`{"kind":"group","id":1,"first":2,"last":%s,"title":"Compile \u003cit\u003e"}`,
		`{"kind":"step","id":2,"first":4,"last":0,"title":"Test"}`,
	}
	for n := range len(steps) {
		if _, err := h.AppendLog(t.Context(), connect.NewRequest(&nimbusv1.AppendLogRequest{Lease: lease, Lines: steps[n : n+1]})); err != nil {
			t.Fatal(err)
		}
		got := p.asAdmin(t, http.MethodGet, path, "").body
		if !strings.Contains(got, fmt.Sprintf(`"attempt_id":%q,"lines":%d,`, lease.GetAttemptId(), n+1)) {
			t.Errorf("after %d lines: %s", n+1, got)
		}
		last := "0"
		if n == 3 {
			last = "3"
		}
		for i, section := range want[:min(n+1, 2+n/3)] {
			if strings.Contains(section, "%s") {
				section = fmt.Sprintf(section, last)
			}
			if !strings.Contains(got, section) {
				t.Errorf("after %d lines section %d is not %s in %s", n+1, i, section, got)
			}
		}
	}
}
