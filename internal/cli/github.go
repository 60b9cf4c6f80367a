package cli

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
)

type githubCmd struct {
	Setup         githubSetupCmd         `cmd:"" help:"Make a GitHub App and connect it, in a browser."`
	Connect       githubConnectCmd       `cmd:"" help:"Connect an App that was made by hand, or give one a new key."`
	Apps          githubAppsCmd          `cmd:"" help:"Show the Apps that are connected."`
	Installations githubInstallationsCmd `cmd:"" help:"Show who has installed them."`
	RotateSecret  githubRotateSecretCmd  `cmd:"" help:"Give an App's webhook a new secret."`
	Remove        githubRemoveCmd        `cmd:"" help:"Forget an App."`
	Runners       githubRunnersCmd       `cmd:"" help:"Say with whom runners are registered."`
	ScaleSet      githubScaleSetCmd      `cmd:"" help:"Have jobs told of without webhooks."`
}

// appView is an App as --json shows it.
type appView struct {
	ID             int64     `json:"app_id"`
	Slug           string    `json:"slug"`
	APIURL         string    `json:"api_url"`
	HTMLURL        string    `json:"html_url"`
	WebhookSecrets int       `json:"webhook_secrets"`
	ChangedAt      time.Time `json:"changed_at"`
}

func viewApp(a nimbus.GitHubApp) appView {
	return appView{a.ID, a.Slug, a.APIURL, a.HTMLURL, a.WebhookSecrets, a.ChangedAt}
}

func (a *app) printApp(g nimbus.GitHubApp, format string, args ...any) error {
	if a.root.JSON {
		return a.printJSON(struct {
			App appView `json:"app"`
		}{viewApp(g)})
	}
	a.info(format, args...)
	return nil
}

type githubConnectCmd struct {
	AppID             int64  `within:"1.." arg:"" help:"The App's id, on its settings page at GitHub."`
	KeyFile           string `required:"" help:"File with the App's private key, PEM." type:"path" placeholder:"FILE"`
	WebhookSecretFile string `help:"File with the webhook's secret. Not needed for a new key of an App that is connected." type:"path" placeholder:"FILE"`
	API               string `name:"api" help:"Address of GitHub's API; a GitHub Enterprise Server's is https://HOST/api/v3. Default: https://api.github.com." placeholder:"URL"`
}

func (*githubConnectCmd) Help() string {
	return `GitHub is asked whether the key is good before it is kept. A new key takes over at once, and the old one can then be deleted at GitHub. A new webhook secret is taken beside the one before for a day.

` + usage("nimbus github connect 12345 --key-file app.pem --webhook-secret-file secret", "nimbus github connect 12345 --key-file new.pem")
}

func (c *githubConnectCmd) Run(ctx context.Context, a *app) error {
	key, err := os.ReadFile(c.KeyFile)
	if err != nil {
		return nimbus.Errorf(nimbus.CodeInvalid, "the App's key can't be read: %w", err)
	}
	var secret []byte
	if c.WebhookSecretFile != "" {
		raw, err := os.ReadFile(c.WebhookSecretFile)
		if err != nil {
			return nimbus.Errorf(nimbus.CodeInvalid, "the webhook's secret can't be read: %w", err)
		}
		if secret = []byte(strings.TrimSpace(string(raw))); len(secret) == 0 {
			return nimbus.Errorf(nimbus.CodeInvalid, "the file %s has no secret in it", c.WebhookSecretFile)
		}
		if bytes.ContainsAny(secret, "\r\n") {
			return nimbus.Errorf(nimbus.CodeInvalid, "the file %s has several lines, and one secret is one line", c.WebhookSecretFile).
				WithHint("give the one that GitHub signs with from now on; the one before is taken for another day")
		}
	}
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	g, err := cl.ConnectGitHubApp(ctx, c.AppID, key, secret, c.API)
	if err != nil {
		return err
	}
	return a.printApp(g, "%s is connected: %s", a.errStyle.Bold(g.Slug), g.HTMLURL)
}

type githubAppsCmd struct{}

func (*githubAppsCmd) Help() string { return usage("nimbus github apps") }

func (*githubAppsCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	apps, err := cl.GitHubApps(ctx)
	if err != nil {
		return err
	}
	views := make([]appView, len(apps))
	for i, g := range apps {
		views[i] = viewApp(g)
	}
	if a.root.JSON {
		return a.printJSON(struct {
			Apps []appView `json:"apps"`
		}{views})
	}
	if len(apps) == 0 {
		a.info("no GitHub App is connected: nimbus github setup")
		return nil
	}
	rows := make([]string, len(apps))
	for i, g := range apps {
		rows[i] = fmt.Sprintf("%d\t%s\t%s\t%d\t%s", g.ID, g.Slug, g.APIURL, g.WebhookSecrets, g.ChangedAt.Local().Format(time.DateTime))
	}
	return a.table("APP\tNAME\tAPI\tSECRETS\tCHANGED", rows)
}

type githubInstallationsCmd struct{}

func (*githubInstallationsCmd) Help() string {
	return "GitHub is asked. An App that needs more than an owner has granted says so: the owner is asked to agree on the installation's page.\n\n" +
		usage("nimbus github installations")
}

// installationView is an installation as --json shows it.
type installationView struct {
	ID                 int64    `json:"id"`
	AppID              int64    `json:"app_id"`
	Account            string   `json:"account"`
	AccountType        string   `json:"account_type"`
	Repositories       string   `json:"repositories"`
	Suspended          bool     `json:"suspended"`
	MissingPermissions []string `json:"missing_permissions"`
}

func (*githubInstallationsCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	found, err := cl.GitHubInstallations(ctx)
	if err != nil {
		return err
	}
	return a.printInstallations(found)
}

func (a *app) printInstallations(found []nimbus.GitHubInstallation) error {
	views := make([]installationView, len(found))
	rows := make([]string, len(found))
	for i, g := range found {
		views[i] = installationView{g.ID, g.AppID, g.Account, g.AccountType, g.Repositories, g.Suspended, append([]string{}, g.MissingPermissions...)}
		state := "ready"
		switch {
		case g.Suspended:
			state = "suspended by its owner"
		case len(g.MissingPermissions) > 0:
			state = "not granted: " + strings.Join(g.MissingPermissions, ", ")
		}
		rows[i] = fmt.Sprintf("%d\t%d\t%s\t%s\t%s\t%s", g.ID, g.AppID, terminal.OneLine(g.Account), g.AccountType, g.Repositories, state)
	}
	if a.root.JSON {
		return a.printJSON(struct {
			Installations []installationView `json:"installations"`
		}{views})
	}
	if len(found) == 0 {
		a.info("nobody has installed an App yet: nimbus github apps --json shows where")
		return nil
	}
	return a.table("ID\tAPP\tOWNER\tTYPE\tREPOSITORIES\tSTATE", rows)
}

type githubAppArg struct {
	AppID int64 `within:"1.." arg:"" help:"The App's id."`
}

type githubRotateSecretCmd struct{ githubAppArg }

func (*githubRotateSecretCmd) Help() string {
	return "Nimbus makes it, takes it beside the one before, and tells GitHub; no delivery is refused meanwhile. The old one ends after a day.\n\n" +
		usage("nimbus github rotate-secret 12345")
}

func (c *githubRotateSecretCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	g, err := cl.RotateGitHubSecret(ctx, c.AppID)
	if err != nil {
		return err
	}
	return a.printApp(g, "the webhook of %s has a new secret", a.errStyle.Bold(g.Slug))
}

type githubRemoveCmd struct{ githubAppArg }

func (*githubRemoveCmd) Help() string {
	return "Its webhooks are refused from then on, and its jobs that run can't be asked about any more. Its scale sets go with it, at GitHub too as long as GitHub takes its key, and what nimbus github runners set for its installations is forgotten. At GitHub it goes on to exist: delete it there.\n\n" +
		usage("nimbus github remove 12345")
}

func (c *githubRemoveCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := cl.RemoveGitHubApp(ctx, c.AppID); err != nil {
		return err
	}
	return a.printApp(nimbus.GitHubApp{ID: c.AppID}, "the App %d is forgotten", c.AppID)
}
