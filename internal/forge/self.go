package forge

import (
	"context"
	"fmt"
	"net/http"
	"slices"

	"github.com/google/go-github/v92/github"

	nimbus "github.com/nimbus-ci/nimbus"
)

// maxInstallationPages bounds a listing of installations, 100 a page.
const maxInstallationPages = 100

// Self is what GitHub says of the App itself.
type Self struct {
	ID      int64
	Slug    string
	Name    string
	HTMLURL string
	Events  []string
	Grants  map[string]string // permission -> read or write
}

// Installation is the App at one owner.
type Installation struct {
	ID           int64
	Account      string
	AccountType  string // User, Organization, Enterprise
	Repositories string // all, selected
	Suspended    bool
	Missing      []string // what the owner did not grant, "administration:write"
}

// needs are the permissions that Nimbus uses, and what for.
//
//	administration  registers runners at repositories
//	actions         reads runs and jobs, and has jobs run again
//	checks          tells the person who pushed why a job can't run
//	contents        tells branches from tags, which decides what saves to the cache
//	metadata        GitHub gives it with every other
//
// Where runners are registered with organisations, that takes another one:
//
//	organization_self_hosted_runners
func needs(orgRunners bool) map[string]string {
	out := map[string]string{"administration": "write", "actions": "write", "checks": "write", "contents": "read", "metadata": "read"}
	if orgRunners {
		out[permOrgRunners] = "write"
	}
	return out
}

// events are those that Nimbus hears of.
func events() []string { return []string{"workflow_job"} }

// Self asks GitHub about the App. Codes: forbidden for a key that is not the
// App's, unavailable.
func (a *App) Self(ctx context.Context) (Self, error) {
	var app *github.App
	err := a.asApp(ctx, "read the App", func(ctx context.Context, c *github.Client) (err error) {
		app, _, err = c.Apps.Get(ctx, "")
		return err
	})
	if err != nil {
		return Self{}, err
	}
	if app.GetID() != a.id {
		return Self{}, nimbus.Errorf(nimbus.CodeForbidden, "the key is of the App %d, not of %d", app.GetID(), a.id)
	}
	return Self{ID: app.GetID(), Slug: app.GetSlug(), Name: app.GetName(), HTMLURL: link(app.GetHTMLURL()),
		Events: app.Events, Grants: grants(app.Permissions)}, nil
}

// Installations lists who has installed the App.
func (a *App) Installations(ctx context.Context) ([]Installation, error) {
	var out []Installation
	err := a.asApp(ctx, "list installations", func(ctx context.Context, c *github.Client) error {
		opts := github.ListOptions{PerPage: 100}
		for range maxInstallationPages {
			page, answer, err := c.Apps.ListInstallations(ctx, &opts)
			if err != nil {
				return err
			}
			for _, i := range page {
				out = append(out, a.installation(i))
			}
			if answer.NextPage == 0 {
				return nil
			}
			opts.Page = answer.NextPage
		}
		return nimbus.Errorf(nimbus.CodeTooLarge, "the App has more than %d installations", maxInstallationPages*opts.PerPage)
	})
	return out, err
}

func (a *App) installation(i *github.Installation) Installation {
	out := Installation{ID: i.GetID(), Account: i.GetAccount().GetLogin(), AccountType: i.GetTargetType(),
		Repositories: i.GetRepositorySelection(), Suspended: i.SuspendedAt != nil}
	out.Missing = missing(grants(i.Permissions), a.needsAt(out.ID))
	return out
}

// missing is what grants lack of what is needed.
func missing(has, needed map[string]string) (out []string) {
	for name, level := range needed {
		switch {
		case has[name] == level || has[name] == "write":
		case name == "actions" && has[name] == "":
			out = append(out, "actions:read") // which is worse than to lack what reruns take
		default:
			out = append(out, name+":"+level)
		}
	}
	slices.Sort(out)
	return out
}

// SetWebhookSecret changes the secret that GitHub signs deliveries with.
func (a *App) SetWebhookSecret(ctx context.Context, secret []byte) error {
	return a.asApp(ctx, "change the webhook's secret", func(ctx context.Context, c *github.Client) error {
		_, _, err := c.Apps.UpdateHookConfig(ctx, github.HookConfig{Secret: new(string(secret))})
		return err
	})
}

// grants are the permissions that Nimbus knows of.
func grants(p *github.InstallationPermissions) map[string]string {
	if p == nil {
		return nil
	}
	return map[string]string{"administration": p.GetAdministration(), "actions": p.GetActions(), "checks": p.GetChecks(),
		"contents": p.GetContents(), "metadata": p.GetMetadata(),
		permOrgRunners: p.GetOrganizationSelfHostedRunners()}
}

// asApp calls with the App's own JWT rather than an installation's token.
func (a *App) asApp(ctx context.Context, what string, fn func(context.Context, *github.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	if err := fn(ctx, a.own); err != nil {
		if tokenRefused(err) {
			return nimbus.Errorf(nimbus.CodeForbidden, "%s: GitHub does not take the App's key: %w", what, err).
				WithHint("the App's id and key must be of one App, and this machine's clock within a minute of GitHub's")
		}
		return translate(what, err)
	}
	return nil
}

func (a *App) clientOver(transport http.RoundTripper) (*github.Client, error) {
	base := a.baseURL + "/"
	c, err := github.NewClient(
		github.WithTransport(transport),
		github.WithURLs(&base, nil),
		github.WithUserAgent(userAgent),
		// Its own bookkeeping counts runner registrations under the wrong
		// bucket and then refuses calls that GitHub would serve.
		github.WithDisableRateLimitCheck(),
	)
	if err != nil {
		return nil, fmt.Errorf("make a client of GitHub's: %w", err)
	}
	return c, nil
}
