package host_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// fetching is an executor that has to fetch an image first, which it finds
// unusable where the class names the image "bad".
type fetching struct{ *scriptedExecutor }

func (e fetching) Create(ctx context.Context, s executor.Spec) (executor.Sandbox, error) {
	s.Tell("fetching layer 1 of 2")
	s.Tell("fetching layer 2 of 2")
	if s.Class.Image == "bad" {
		return nil, &executor.ImageError{Err: nimbus.Errorf(nimbus.CodeForbidden, "image bad is not allowed on this host").WithHint("ask its operator")}
	}
	return e.scriptedExecutor.Create(ctx, s)
}

// TestImageIsToldInTheLog: what an image takes is in the job's log before its
// own output; one that can't be used ends the job at once, with the reason.
func TestImageIsToldInTheLog(t *testing.T) {
	t.Parallel()
	p, dir := startPlane(t), t.TempDir()
	code := int32(0)
	guests := &scriptedExecutor{boxes: map[string]*scriptedSandbox{}, behaviours: map[string]guestBehaviour{
		"ends": func(_ context.Context, _ int64, send func(*nimbusv1.WatchResponse) error) error {
			if err := send(&nimbusv1.WatchResponse{Seq: 1, Event: &nimbusv1.WatchResponse_Output{Output: &nimbusv1.Output{Stream: "stdout", Data: []byte("the job's own\n")}}}); err != nil {
				return err
			}
			return send(&nimbusv1.WatchResponse{Seq: 2, Event: &nimbusv1.WatchResponse_Exited{Exited: &nimbusv1.Exited{Code: &code}}})
		},
	}}
	startFaulty(t, p, dir, func(r *http.Request, next http.RoundTripper) (*http.Response, error) { return next.RoundTrip(r) }, fetching{guests})
	const told = "nimbus: fetching layer 1 of 2\nnimbus: fetching layer 2 of 2\n"
	for image, want := range map[string]struct {
		result nimbus.Result
		reason nimbus.ReasonCode
		log    string
	}{
		"good": {nimbus.ResultSuccess, nimbus.ReasonNone, told + "the job's own\n"},
		"bad":  {nimbus.ResultFailure, nimbus.ReasonImageNotFound, told + "nimbus: image bad is not allowed on this host; ask its operator\n"},
	} {
		j := p.submit(t, "", func(s *scheduler.Submission) { s.Spec.Command, s.Class.Image = []string{"ends"}, image })
		j = p.await(t, j.ID, "finished", over)
		if j.Result != want.result || j.Reason.Code != want.reason || j.AttemptCount != 1 {
			t.Errorf("%s: %s, %+v, %d attempts", image, j.Result, j.Reason, j.AttemptCount)
		}
		if got := p.log(t, j); strings.TrimSpace(got) != strings.TrimSpace(want.log) {
			t.Errorf("%s: log %q", image, got)
		}
	}
}
