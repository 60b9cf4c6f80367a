package cli

import (
	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
)

// status is a job's state, or how it ended.
func status(s terminal.Style, j nimbus.Job) string {
	switch {
	case j.Result == nimbus.ResultSuccess:
		return s.Good(string(j.Result))
	case j.Result == nimbus.ResultCancelled:
		return s.Warn(string(j.Result))
	case j.Result != "":
		return s.Bad(string(j.Result))
	case j.State == nimbus.StateUnschedulable:
		return s.Warn(string(j.State))
	}
	return string(j.State)
}
