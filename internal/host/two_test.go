package host_test

import (
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/host"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// TestTwoAgentsOfOneDirectory would take each other's sandboxes for orphans: the
// second one does not begin, and the jobs of the first go on.
func TestTwoAgentsOfOneDirectory(t *testing.T) {
	testenv.Require(t, "root")
	p, dir := startPlane(t), t.TempDir()
	startHost(t, p, dir)
	j := p.submit(t, "sleep 1; echo done")
	second, err := host.New(t.Context(), host.Config{
		Data: dir, Programs: programsInPath, Log: logger(t), Server: p.url, Name: "second", Version: "test", JoinToken: "spent by nobody",
	})
	must(t, err)
	err = second.Run(t.Context(), func() { t.Error("the second is ready") })
	if nimbus.ErrorCode(err) != nimbus.CodeConflict || !strings.Contains(nimbus.ErrorHint(err), "--data") {
		t.Errorf("%v, hint %q", err, nimbus.ErrorHint(err))
	}
	ended := p.await(t, j.ID, "finished", func(j nimbus.Job) bool { return j.State == nimbus.StateFinished })
	if ended.Result != nimbus.ResultSuccess {
		t.Errorf("the first one's job ended with %s: %s", ended.Result, ended.Reason.Message)
	}
}
