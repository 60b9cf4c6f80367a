package server

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/forge"
)

// Connect implements httpapi.GitHub: it takes an App, or a new key of one that
// is connected, once GitHub has said that the key is good.
func (g *gitHub) Connect(ctx context.Context, p nimbus.Principal, id int64, key, secret []byte, url string) (nimbus.GitHubApp, error) {
	g.changing.Lock()
	defer g.changing.Unlock()
	k, known := g.kept(id)
	if err := g.mayJoin(id, url, known); err != nil {
		return nimbus.GitHubApp{}, err
	}
	k.AppID, k.PrivateKey = id, key
	if !known {
		k.URL = url
	}
	switch {
	case len(secret) > 0:
		k.replaceSecret(secret, g.clock.Now())
	case !known:
		return nimbus.GitHubApp{}, nimbus.Errorf(nimbus.CodeInvalid, "the App has no webhook secret").
			WithHint("set one in the App's settings at GitHub, and give it here")
	}
	return g.verified(ctx, k, k.told(p.Actor(), "github_app.connect"))
}

// mayJoin refuses an App that could be taken for another one: ids of Apps,
// installations and jobs are those of one server, and two Enterprise Servers count
// from one. GitHub's own are so large that an Enterprise Server's don't meet them.
func (g *gitHub) mayJoin(id int64, url string, known bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	api := forge.APIURL(url)
	if known {
		if have := forge.APIURL(g.open[id].kept.URL); url != "" && have != api {
			return nimbus.Errorf(nimbus.CodeConflict, "the App %d of %s is connected", id, have).
				WithHint("if it is the same App at a new address: nimbus github remove %d, then connect it", id)
		}
		return nil
	}
	if !forge.IsEnterpriseServer(api) {
		return nil
	}
	for _, other := range g.open {
		if have := forge.APIURL(other.kept.URL); forge.IsEnterpriseServer(have) && have != api {
			return nimbus.Errorf(nimbus.CodeUnsupported, "an App of %s is connected, and the jobs of two GitHub Enterprise Servers can't be told apart", have).
				WithHint("run a Nimbus for each; beside github.com one Enterprise Server is fine")
		}
	}
	return nil
}

// ConvertManifest implements httpapi.GitHub.
func (g *gitHub) ConvertManifest(ctx context.Context, p nimbus.Principal, code, url string) (nimbus.GitHubApp, error) {
	g.changing.Lock()
	defer g.changing.Unlock()
	if err := g.mayJoin(0, url, false); err != nil { // before the code is spent
		return nimbus.GitHubApp{}, err
	}
	c, err := forge.ConvertManifest(ctx, url, code, nil)
	if err != nil {
		return nimbus.GitHubApp{}, err
	}
	k := keptApp{GitHub: GitHub{AppID: c.AppID, PrivateKey: c.PrivateKey, WebhookSecrets: [][]byte{c.WebhookSecret}, URL: url}}
	// The code is spent: the App is kept before anything else can go wrong.
	if err := g.keep(ctx, k, k.told(p.Actor(), "github_app.connect")); err != nil {
		return nimbus.GitHubApp{}, err
	}
	if app, err := g.verified(ctx, k, nimbus.AuditEvent{}); err == nil {
		return app, nil
	}
	return g.reloaded(ctx, k.AppID)
}

// RotateWebhookSecret implements httpapi.GitHub. Both secrets are taken before
// GitHub hears of the new one, so that no delivery is refused in between.
func (g *gitHub) RotateWebhookSecret(ctx context.Context, p nimbus.Principal, id int64) (nimbus.GitHubApp, error) {
	g.changing.Lock()
	defer g.changing.Unlock()
	k, known := g.kept(id)
	if !known {
		return nimbus.GitHubApp{}, errNoApp(id)
	}
	app, err := g.connect(k)
	if err != nil {
		return nimbus.GitHubApp{}, err
	}
	secret := newSecret()
	before := k
	k.replaceSecret(secret, g.clock.Now())
	if err := g.keep(ctx, k, k.told(p.Actor(), "github_app.rotate_secret")); err != nil {
		return nimbus.GitHubApp{}, err
	}
	if _, err := g.reloaded(ctx, id); err != nil {
		return nimbus.GitHubApp{}, err
	}
	if err := g.wait(ctx); err != nil {
		return nimbus.GitHubApp{}, err
	}
	if err := app.SetWebhookSecret(ctx, secret); err != nil {
		if nimbus.ErrorCode(err) == nimbus.CodeUnavailable {
			return nimbus.GitHubApp{}, err // GitHub may have heard it: both go on to be taken
		}
		if undo := g.keep(ctx, before, k.told(p.Actor(), "github_app.keep_secret")); undo != nil {
			return nimbus.GitHubApp{}, fmt.Errorf("%w (and the secret before could not be put back: %w)", err, undo)
		}
		_, _ = g.reloaded(ctx, id) // the loop does it soon, if not now
		return nimbus.GitHubApp{}, err
	}
	return g.reloaded(ctx, id)
}

// wait is for the other replicas to know the new secret too.
func (g *gitHub) wait(ctx context.Context) error {
	if g.replicas == nil {
		return nil
	}
	select {
	case <-time.After(appsCheck + time.Second):
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the other replicas: %w", context.Cause(ctx))
	}
}

// Remove implements httpapi.GitHub. What is of the App goes first: it takes the
// App's key to take it back at GitHub.
func (g *gitHub) Remove(ctx context.Context, p nimbus.Principal, id int64) error {
	g.changing.Lock()
	defer g.changing.Unlock()
	k := keptApp{GitHub: GitHub{AppID: id}}
	if err := g.forgetRunners(ctx, p, id); err != nil {
		return err
	}
	err := g.secrets.Delete(ctx, nimbus.DefaultOrgID, k.name(), k.told(p.Actor(), "github_app.remove"))
	if nimbus.ErrorCode(err) == nimbus.CodeNotFound {
		return errNoApp(id)
	}
	if err != nil {
		return err
	}
	return g.reload(ctx)
}

// Installations implements httpapi.GitHub.
func (g *gitHub) Installations(ctx context.Context) ([]nimbus.GitHubInstallation, error) {
	var out []nimbus.GitHubInstallation
	for _, app := range g.forge.All() {
		found, err := app.Installations(ctx)
		if err != nil {
			return nil, fmt.Errorf("installations of App %d: %w", app.ID(), err)
		}
		for _, i := range found {
			out = append(out, nimbus.GitHubInstallation{
				ID: i.ID, AppID: app.ID(), Account: i.Account, AccountType: i.AccountType, Repositories: i.Repositories,
				Suspended: i.Suspended, MissingPermissions: i.Missing,
			})
		}
	}
	return out, nil
}

// verified keeps an App that GitHub knows.
func (g *gitHub) verified(ctx context.Context, k keptApp, e nimbus.AuditEvent) (nimbus.GitHubApp, error) {
	app, err := g.connect(k)
	if err != nil {
		return nimbus.GitHubApp{}, err
	}
	self, err := app.Self(ctx)
	if err != nil {
		return nimbus.GitHubApp{}, err
	}
	k.Slug, k.HTMLURL = self.Slug, self.HTMLURL
	if err := g.keep(ctx, k, e); err != nil {
		return nimbus.GitHubApp{}, err
	}
	return g.reloaded(ctx, k.AppID)
}

func (g *gitHub) reloaded(ctx context.Context, id int64) (nimbus.GitHubApp, error) {
	if err := g.reload(ctx); err != nil {
		return nimbus.GitHubApp{}, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.shown(id), nil
}

func (g *gitHub) kept(id int64) (keptApp, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	a, ok := g.open[id]
	k := a.kept
	k.WebhookSecrets, k.Until = slices.Clone(k.WebhookSecrets), slices.Clone(k.Until)
	return k, ok
}

// replaceSecret puts a secret first. Those before are taken for a while yet,
// but for the ones that have ended.
func (k *keptApp) replaceSecret(secret []byte, now time.Time) {
	secrets, until := [][]byte{secret}, []time.Time{{}}
	for _, old := range k.valid(now) {
		if string(old) != string(secret) {
			secrets, until = append(secrets, old), append(until, k.endOf(old, now))
		}
	}
	k.WebhookSecrets, k.Until = secrets, until
}

func (k *keptApp) endOf(secret []byte, now time.Time) time.Time {
	i := slices.IndexFunc(k.WebhookSecrets, func(s []byte) bool { return string(s) == string(secret) })
	if i < len(k.Until) && !k.Until[i].IsZero() {
		return k.Until[i]
	}
	return now.Add(oldSecretFor)
}

func errNoApp(id int64) error {
	return nimbus.Errorf(nimbus.CodeNotFound, "the GitHub App %d is not connected", id).WithHint("nimbus github apps shows those that are")
}

// Examine implements httpapi.GitHub.
func (g *gitHub) Examine(ctx context.Context) (checks []nimbus.GitHubCheck) {
	for _, app := range g.forge.All() {
		own := app.Examine(ctx)
		checks = append(checks, own...)
		if !slices.ContainsFunc(own, mute) {
			checks = append(checks, g.runners(ctx, app))
		}
	}
	return checks
}

// mute tells whether a check says that GitHub can be asked nothing.
func mute(c nimbus.GitHubCheck) bool {
	return c.Status == nimbus.CheckFails && (c.Name == forge.CheckAPI || c.Name == forge.CheckKey)
}
