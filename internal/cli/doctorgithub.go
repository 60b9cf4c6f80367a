package cli

import (
	"context"
	"fmt"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
	"github.com/nimbus-ci/nimbus/internal/doctor"
)

type doctorGitHubCmd struct{}

func (*doctorGitHubCmd) Help() string {
	return `Has the server look, for each GitHub App that is connected, whether GitHub can be reached, takes the App's key and this clock, what the App may do and hears of, who has installed or suspended it, and how the last webhook fared; one that was refused for its signature is asked for again. It also tells of hosts whose runner is behind GitHub's releases, and from when on GitHub gives no jobs to it. Exits with 1 when something fails; a warning is fine.

` + usage("nimbus doctor github", "nimbus doctor github --json | jq '.checks[] | select(.status != \"ok\")'")
}

func (*doctorGitHubCmd) Run(ctx context.Context, a *app) error {
	ctx, cancel := context.WithTimeout(ctx, doctorTimeout)
	defer cancel()
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	apps, err := cl.GitHubApps(ctx)
	if err != nil {
		return err
	}
	if len(apps) == 0 {
		return nimbus.Errorf(nimbus.CodeNotFound, "no GitHub App is connected").WithHint("nimbus github setup makes one")
	}
	stop := terminal.Progress(a.Err, func() string { return "asking GitHub" })
	found, err := cl.ExamineGitHub(ctx)
	stop()
	if err != nil {
		return err
	}
	var checks []doctor.Check
	for _, c := range found {
		name := c.Name
		if len(apps) > 1 {
			name = fmt.Sprintf("%d %s", c.AppID, c.Name)
		}
		checks = append(checks, doctor.Check{Name: name, Status: doctor.Status(c.Status), Detail: c.Detail, Hint: c.Hint})
	}
	return a.report(checks)
}
