package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
	"github.com/nimbus-ci/nimbus/internal/doctor"
	"github.com/nimbus-ci/nimbus/internal/host"
)

type doctorCmd struct {
	Machine doctorMachineCmd `cmd:"" default:"withargs" help:"Look at what this machine lacks."`
	GitHub  doctorGitHubCmd  `cmd:"" name:"github" help:"Look at what keeps GitHub's jobs from coming."`
}

type doctorMachineCmd struct {
	imagesFlags
	host.MonitorFlags
	host.DaemonFlags
}

func (*doctorMachineCmd) Help() string {
	return `Looks at what jobs need on this machine, by trying it where only that tells. Exits with 1 when something fails; a warning is fine.

` + usage("nimbus doctor", "sudo nimbus doctor --json | jq '.checks[] | select(.status != \"ok\")'")
}

// doctorTimeout bounds all checks together.
const doctorTimeout = time.Minute

func (c *doctorMachineCmd) Run(ctx context.Context, a *app) error {
	data, err := a.root.dataDir()
	if err != nil {
		return err
	}
	stop := terminal.Progress(a.Err, func() string { return "looking" })
	checks := examine(ctx, doctor.Machine{Data: data, Server: a.root.Server, Images: c.Images, VMM: c.VMM, DockerHost: c.DockerHost, Programs: finder(data)})
	stop()
	return a.report(checks)
}

// examine makes all checks of a machine.
func examine(ctx context.Context, m doctor.Machine) []doctor.Check {
	ctx, cancel := context.WithTimeout(ctx, doctorTimeout)
	defer cancel()
	return doctor.Examine(ctx, m)
}

// report shows checks; one that failed is the command's failure.
func (a *app) report(checks []doctor.Check) (err error) {
	if a.root.JSON {
		err = a.printJSON(struct {
			Checks []doctor.Check `json:"checks"`
		}{checks})
	} else {
		a.printChecks(a.Out, a.style, checks)
	}
	failed := slices.ContainsFunc(checks, func(c doctor.Check) bool { return c.Status == doctor.Fail })
	if err == nil && failed {
		err = &exitError{code: ExitFailure}
	}
	return err
}

func (a *app) printChecks(to io.Writer, style terminal.Style, checks []doctor.Check) {
	for _, c := range checks {
		mark := map[doctor.Status]string{doctor.OK: style.Good("ok  "), doctor.Warn: style.Warn("warn"), doctor.Fail: style.Bad("fail")}[c.Status]
		fmt.Fprintf(to, "%s  %-12s %s\n", mark, c.Name, terminal.OneLine(c.Detail))
		if c.Hint != "" && c.Status != doctor.OK {
			fmt.Fprintf(to, "      %s\n", style.Quiet(terminal.OneLine(c.Hint)))
		}
	}
}
