package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
)

type githubScaleSetCmd struct {
	Add    githubScaleSetAddCmd    `cmd:"" help:"Make a scale set and listen to it."`
	List   githubScaleSetListCmd   `cmd:"" help:"Show the scale sets, and how listening goes."`
	Remove githubScaleSetRemoveCmd `cmd:"" help:"Remove a scale set, at GitHub too."`
}

// scaleSetView is a scale set as --json shows it.
type scaleSetView struct {
	ID             string     `json:"id"`
	InstallationID int64      `json:"installation_id"`
	Organization   string     `json:"organization"`
	Group          string     `json:"group"`
	Name           string     `json:"name"`
	Labels         []string   `json:"labels"`
	MaxRunners     int        `json:"max_runners"`
	GitHubID       int64      `json:"github_id"`
	HeardAt        *time.Time `json:"heard_at,omitempty"`
	Trouble        string     `json:"trouble,omitempty"`
	Assigned       int        `json:"assigned"`
	Running        int        `json:"running"`
}

func viewScaleSet(s nimbus.ScaleSet) scaleSetView {
	v := scaleSetView{ID: s.ID, InstallationID: s.InstallationID, Organization: s.Organization, Group: s.Group, Name: s.Name, Labels: s.Labels,
		MaxRunners: s.MaxRunners, GitHubID: s.GitHubID, Trouble: s.State.Trouble, Assigned: s.State.Assigned, Running: s.State.Running}
	if !s.State.HeardAt.IsZero() {
		v.HeardAt = &s.State.HeardAt
	}
	return v
}

type githubScaleSetAddCmd struct {
	Installation int64    `within:"1.." arg:"" help:"The installation's id, as nimbus github installations shows it."`
	Name         string   `arg:"" help:"Name of the scale set; no other of the runner group may have it."`
	Label        []string `help:"Label that jobs may ask for, again for each; nimbus has to be among them. Default: the name." placeholder:"LABEL"`
	Group        string   `help:"Runner group of the organisation. Default: its default group." placeholder:"NAME"`
	MaxRunners   int      `within:"1..10000" help:"As many jobs GitHub may give to it at once." default:"100"`
}

func (*githubScaleSetAddCmd) Help() string {
	return `For a server that GitHub can't reach: the jobs of a scale set are told of in a queue that Nimbus fetches from, so no webhook has to come in. All labels of a job have to be among those of the scale set. The owner has to grant the App the organisation's permission Self-hosted runners (write). A GitHub Enterprise Server before 3.21 knows one label only.

` + usage("nimbus github scale-set add 54321 nimbus", "nimbus github scale-set add 54321 big --label nimbus --label cpu:8 --label memory:16 --max-runners 20")
}

func (c *githubScaleSetAddCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	set, err := cl.AddScaleSet(ctx, nimbus.ScaleSet{InstallationID: c.Installation, Name: c.Name, Labels: c.Label, Group: c.Group, MaxRunners: c.MaxRunners})
	if err != nil {
		return err
	}
	if a.root.JSON {
		return a.printJSON(struct {
			ScaleSet scaleSetView `json:"scale_set"`
		}{viewScaleSet(set)})
	}
	a.info("%s of %s is listened to: runs-on: [%s]", a.errStyle.Bold(set.Name), terminal.OneLine(set.Organization), terminal.OneLine(strings.Join(set.Labels, ", ")))
	return nil
}

type githubScaleSetListCmd struct{}

func (*githubScaleSetListCmd) Help() string { return usage("nimbus github scale-set list") }

func (*githubScaleSetListCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	sets, err := cl.ScaleSets(ctx)
	if err != nil {
		return err
	}
	views, rows := make([]scaleSetView, len(sets)), make([]string, len(sets))
	for i, s := range sets {
		views[i] = viewScaleSet(s)
		state := "not heard yet"
		switch {
		case s.State.Trouble != "":
			state = "not heard: " + terminal.OneLine(s.State.Trouble)
		case !s.State.HeardAt.IsZero():
			state = "heard at " + s.State.HeardAt.Local().Format(time.DateTime)
		}
		rows[i] = fmt.Sprintf("%s\t%s\t%s\t%s\t%d of %d\t%d\t%s", s.ID, terminal.OneLine(s.Organization), s.Name, terminal.OneLine(strings.Join(s.Labels, " ")),
			s.State.Assigned, s.MaxRunners, s.State.Running, state)
	}
	if a.root.JSON {
		return a.printJSON(struct {
			ScaleSets []scaleSetView `json:"scale_sets"`
		}{views})
	}
	if len(sets) == 0 {
		a.info("no scale set is listened to")
		return nil
	}
	return a.table("ID\tORGANISATION\tNAME\tLABELS\tJOBS\tRUNNING\tSTATE", rows)
}

type githubScaleSetRemoveCmd struct {
	ID string `arg:"" help:"The scale set's id, as nimbus github scale-set list shows it."`
}

func (*githubScaleSetRemoveCmd) Help() string {
	return "Jobs that it has and that did not begin go back to GitHub, which gives them to other runners with their labels.\n\n" +
		usage("nimbus github scale-set remove set_01k8x3c9e5t2v7w6q4y0z1a2b3")
}

func (c *githubScaleSetRemoveCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := cl.RemoveScaleSet(ctx, c.ID); err != nil {
		return err
	}
	if a.root.JSON {
		return a.printJSON(struct {
			Removed string `json:"removed"`
		}{c.ID})
	}
	a.info("the scale set is removed")
	return nil
}
