package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
)

type githubRunnersCmd struct {
	List githubRunnersListCmd `cmd:"" help:"Show which installations' runners are an organisation's."`
	Set  githubRunnersSetCmd  `cmd:"" help:"Say with whom the runners of an installation are registered."`
}

// runnerPlaceView is where runners are registered, as --json shows it.
type runnerPlaceView struct {
	InstallationID int64      `json:"installation_id"`
	Scope          string     `json:"scope"`
	Organization   string     `json:"organization"`
	Group          string     `json:"group"`
	ChangedAt      *time.Time `json:"changed_at,omitempty"`
}

func viewRunnerPlace(p nimbus.RunnerPlace) runnerPlaceView {
	v := runnerPlaceView{InstallationID: p.InstallationID, Scope: "repository", Organization: p.Organization, Group: p.Group}
	if p.Organization != "" {
		v.Scope = "organization"
	}
	if !p.ChangedAt.IsZero() {
		v.ChangedAt = &p.ChangedAt
	}
	return v
}

type githubRunnersListCmd struct{}

func (*githubRunnersListCmd) Help() string {
	return "Installations that are not shown have the runner of each job registered at the job's repository.\n\n" + usage("nimbus github runners list")
}

func (*githubRunnersListCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	places, err := cl.RunnerPlaces(ctx)
	if err != nil {
		return err
	}
	views, rows := make([]runnerPlaceView, len(places)), make([]string, len(places))
	for i, p := range places {
		views[i] = viewRunnerPlace(p)
		rows[i] = fmt.Sprintf("%d\t%s\t%s\t%s", p.InstallationID, terminal.OneLine(p.Organization), terminal.OneLine(p.Group), p.ChangedAt.Local().Format(time.DateTime))
	}
	if a.root.JSON {
		return a.printJSON(struct {
			Places []runnerPlaceView `json:"places"`
		}{views})
	}
	if len(places) == 0 {
		a.info("all runners are registered at the repositories of their jobs")
		return nil
	}
	return a.table("INSTALLATION\tORGANISATION\tGROUP\tCHANGED", rows)
}

type githubRunnersSetCmd struct {
	Installation int64  `within:"1.." arg:"" help:"The installation's id, as nimbus github installations shows it."`
	Scope        string `arg:"" help:"repository or organization." placeholder:"SCOPE"`
	Group        string `help:"Runner group of the organisation, which says which of its repositories may use the runners. Default: the organisation's default group." placeholder:"NAME"`
}

func (*githubRunnersSetCmd) Help() string {
	return `A runner of an organisation may be given a job of any repository that its runner group allows; what really runs is what the books, limits and tokens follow. The owner has to grant the App the organisation's permission Self-hosted runners (write). Runners that are there stay where they are.
GitHub lets no App register runners with an enterprise: set it for each organisation.

` + usage("nimbus github runners set 54321 organization", "nimbus github runners set 54321 organization --group builders", "nimbus github runners set 54321 repository")
}

func (c *githubRunnersSetCmd) Run(ctx context.Context, a *app) error {
	switch c.Scope {
	case "repository", "organization":
	case "enterprise":
		return badUsage(nimbus.Errorf(nimbus.CodeInvalid, "GitHub lets no App register runners with an enterprise").
			WithHint("install the App on its organisations, and set organization for each"))
	default:
		return badUsage(nimbus.Errorf(nimbus.CodeInvalid, "%.40q is no scope of runners", c.Scope).WithHint("it is repository or organization"))
	}
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	p, err := cl.SetRunnerPlace(ctx, c.Installation, c.Scope == "organization", c.Group)
	if err != nil {
		return err
	}
	if a.root.JSON {
		return a.printJSON(struct {
			Place runnerPlaceView `json:"place"`
		}{viewRunnerPlace(p)})
	}
	if p.Organization == "" {
		a.info("runners are registered at the repositories of their jobs from now on")
		return nil
	}
	a.info("runners are registered with %s from now on, in the runner group %s", a.errStyle.Bold(terminal.OneLine(p.Organization)), terminal.OneLine(p.Group))
	return nil
}
