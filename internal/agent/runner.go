package agent

import (
	"fmt"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// Exit codes of the listener of GitHub's runner.
const (
	listenerRetryable  = 2
	listenerUpdating   = 3
	listenerConflict   = 5
	listenerRefreshed  = 6
	listenerDeprecated = 7
)

// jobless tells whether a process was GitHub's runner and had no job.
func jobless(x *nimbusv1.RunnerExit) bool { return x != nil && !x.GetHadJob() }

// runnerReason says why a runner is over that had no job. One that just ended
// may have been removed by GitHub since no job came; the others would end the
// same way at once.
func runnerReason(x *nimbusv1.RunnerExit) nimbus.Reason {
	if x.ListenerCode == nil {
		return nimbus.Reason{Code: nimbus.ReasonRunnerEnded, Message: "its runner ended without having had a job"}
	}
	code := x.GetListenerCode()
	said := map[int32]string{
		listenerRetryable:  "GitHub can't be reached from the sandbox, or does not take it",
		listenerUpdating:   "it was about to update itself: the image's runner is too old, and `nimbus images build` makes one with a newer",
		listenerConflict:   "GitHub has a session of another runner by its name",
		listenerRefreshed:  "GitHub gave it another configuration",
		listenerDeprecated: "GitHub takes its version no more; `nimbus images build` makes an image with a newer one",
	}[code]
	switch {
	case said != "":
		return nimbus.Reason{Code: nimbus.ReasonRunnerRefused, Message: fmt.Sprintf("its runner had no job: %s (listener exit code %d)", said, code)}
	case code == 0:
		return nimbus.Reason{Code: nimbus.ReasonRunnerEnded, Message: "its runner ended without having had a job (listener exit code 0)"}
	}
	return nimbus.Reason{Code: nimbus.ReasonRunnerEnded, Message: fmt.Sprintf("its runner had no job and gave up: its own last words are in the log (listener exit code %d)", code)}
}
