package server

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/forge"
	"github.com/nimbus-ci/nimbus/internal/identity"
)

// GitHub is an App that is connected by hand.
type GitHub struct {
	AppID      int64  `json:"app_id"`
	PrivateKey []byte `json:"private_key"` // PEM
	// WebhookSecrets verify deliveries; more than one while one is rotated.
	WebhookSecrets [][]byte `json:"webhook_secrets"`
	URL            string   `json:"url"` // of the API; "" for api.github.com
}

const (
	// appSecret begins the names under which Apps are kept, their ids follow.
	appSecret = "github-app/"
	// oneAppSecret is the name under which the one App was kept before there
	// could be several.
	oneAppSecret = "github-app"
	// appsCheck is how often a replica looks for what another one changed.
	appsCheck = 5 * time.Second
	// oldSecretFor is how long deliveries are taken that are signed with the
	// secret before: those under way, and GitHub's redeliveries of them.
	oldSecretFor = 24 * time.Hour
)

// keptApp is an App as it is sealed.
type keptApp struct {
	GitHub

	Slug    string `json:"slug,omitempty"`
	HTMLURL string `json:"html_url,omitempty"`
	// Until is when each of WebhookSecrets ends, by the same index; zero: never.
	Until []time.Time `json:"until,omitempty"`
}

func (k keptApp) name() string { return appSecret + strconv.FormatInt(k.AppID, 10) }

// valid are the webhook secrets that are taken at a time.
func (k keptApp) valid(now time.Time) (secrets [][]byte) {
	for i, s := range k.WebhookSecrets {
		if i >= len(k.Until) || k.Until[i].IsZero() || now.Before(k.Until[i]) {
			secrets = append(secrets, s)
		}
	}
	return secrets
}

// openApp is an App in memory.
type openApp struct {
	kept      keptApp
	app       *forge.App
	changedAt time.Time
}

// gitHub keeps the Apps that are connected, and has the forge know them. It
// implements lifecycle.Service and httpapi.GitHub.
type gitHub struct {
	secrets identity.Secrets
	places  runnerStore
	forge   *forge.Apps
	hosts   hostLister // for Examine
	clock   nimbus.Clock
	log     *slog.Logger
	// replicas tells how many there are; nil: there are no others.
	replicas forge.Replicas

	changing sync.Mutex // one change at a time in this process
	mu       sync.Mutex
	open     map[int64]openApp
}

func newGitHub(secrets identity.Secrets, places runnerStore, clock nimbus.Clock, log *slog.Logger) *gitHub {
	return &gitHub{secrets: secrets, places: places, forge: forge.NewApps(clock, log), clock: clock, log: log, open: map[int64]openApp{}}
}

// start opens the Apps that were connected before, and connects one that the
// command line names. It makes no call: Nimbus starts while GitHub is down.
func (g *gitHub) start(ctx context.Context, named *GitHub) error {
	if err := g.takeOverOne(ctx); err != nil {
		return err
	}
	if named != nil {
		k := keptApp{GitHub: *named}
		if err := g.keep(ctx, k, k.told(nimbus.AuditSystem, "github_app.connect")); err != nil {
			return err
		}
	}
	return g.reload(ctx)
}

// takeOverOne gives the App of before its name of now.
func (g *gitHub) takeOverOne(ctx context.Context) error {
	raw, err := g.secrets.Get(ctx, nimbus.DefaultOrgID, oneAppSecret)
	if nimbus.ErrorCode(err) == nimbus.CodeNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	var one GitHub
	if err := json.Unmarshal(raw, &one); err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	if err := g.keep(ctx, keptApp{GitHub: one}, nimbus.AuditEvent{}); err != nil {
		return err
	}
	err = g.secrets.Delete(ctx, nimbus.DefaultOrgID, oneAppSecret, nimbus.AuditEvent{})
	if nimbus.ErrorCode(err) == nimbus.CodeNotFound { // another replica was faster
		return nil
	}
	return err
}

// keep seals an App. The audit event says who wanted it; without an action it
// is no change that anybody asked for.
func (g *gitHub) keep(ctx context.Context, k keptApp, e nimbus.AuditEvent) error {
	if _, err := g.connect(k); err != nil {
		return err
	}
	raw, err := json.Marshal(k)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	return g.secrets.Put(ctx, nimbus.DefaultOrgID, k.name(), raw, e)
}

// told is the audit event of what is done to the App, in the platform's chain:
// its key reaches every owner that installed it.
func (k keptApp) told(actor, action string) nimbus.AuditEvent {
	return nimbus.AuditEvent{Actor: actor, Action: action, Target: strconv.FormatInt(k.AppID, 10), Outcome: nimbus.AuditAllowed}
}

func (g *gitHub) connect(k keptApp) (*forge.App, error) {
	return forge.NewApp(forge.AppConfig{AppID: k.AppID, PrivateKey: k.PrivateKey, BaseURL: k.URL, Replicas: g.replicas})
}

// Name implements lifecycle.Service.
func (g *gitHub) Name() string { return "github apps" }

// Run implements lifecycle.Service: it follows what other replicas change.
func (g *gitHub) Run(ctx context.Context, ready func()) error {
	ready()
	tick := time.NewTicker(appsCheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := g.reload(ctx); err != nil && ctx.Err() == nil {
			g.log.WarnContext(ctx, "reading the GitHub Apps failed, it is tried again", "error", err)
		}
		g.forge.Learn(ctx)
	}
}

// reload reads what changed, and tells the forge.
func (g *gitHub) reload(ctx context.Context) error {
	names, err := g.secrets.Names(ctx, nimbus.DefaultOrgID)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	var errs []error
	there := map[int64]bool{}
	for _, n := range names {
		id, isApp := appID(n.Name)
		if !isApp {
			continue
		}
		there[id] = true
		if known, ok := g.open[id]; ok && known.changedAt.Equal(n.ChangedAt) {
			continue
		}
		opened, err := g.read(ctx, n)
		if err != nil { // the others go on
			errs = append(errs, fmt.Errorf("GitHub App %d: %w", id, err))
			continue
		}
		g.open[id] = opened
	}
	maps.DeleteFunc(g.open, func(id int64, _ openApp) bool { return !there[id] })
	g.tell()
	return errors.Join(append(errs, g.readPlaces(ctx))...)
}

func appID(name string) (int64, bool) {
	rest, ok := strings.CutPrefix(name, appSecret)
	if !ok {
		return 0, false
	}
	id, err := strconv.ParseInt(rest, 10, 64)
	return id, err == nil
}

func (g *gitHub) read(ctx context.Context, n identity.SecretName) (openApp, error) {
	raw, err := g.secrets.Get(ctx, nimbus.DefaultOrgID, n.Name)
	if err != nil {
		return openApp{}, err
	}
	out := openApp{changedAt: n.ChangedAt}
	if err := json.Unmarshal(raw, &out.kept); err != nil {
		return openApp{}, fmt.Errorf("decode: %w", err)
	}
	out.app, err = g.connect(out.kept)
	return out, err
}

// tell has the forge know the Apps, and the secrets that are valid by now.
// g.mu is held.
func (g *gitHub) tell() {
	apps, secrets := map[int64]*forge.App{}, map[int64][][]byte{}
	for id, a := range g.open {
		apps[id], secrets[id] = a.app, a.kept.valid(g.clock.Now())
	}
	g.forge.Set(apps, secrets)
}

// webhook takes deliveries while an App is connected, and says so while none is.
func (g *gitHub) webhook(
	process func(context.Context, nimbus.Delivery, *nimbus.ForgeEvent) (nimbus.DeliveryOutcome, error),
) http.Handler {
	taken := forge.NewWebhook(forge.WebhookConfig{Secrets: g.forge.Secrets, MayTell: g.forge.MayTell, Process: process, Log: g.log})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(g.forge.Secrets()) == 0 {
			http.Error(w, "no GitHub App is connected: see docs/github.md", http.StatusNotFound)
			return
		}
		taken.ServeHTTP(w, r)
	})
}

// Apps implements httpapi.GitHub.
func (g *gitHub) Apps(context.Context) ([]nimbus.GitHubApp, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []nimbus.GitHubApp
	for _, id := range slices.Sorted(maps.Keys(g.open)) {
		out = append(out, g.shown(id))
	}
	return out, nil
}

// shown is an App without its secrets. g.mu is held.
func (g *gitHub) shown(id int64) nimbus.GitHubApp {
	a := g.open[id]
	return nimbus.GitHubApp{
		ID: id, Slug: a.kept.Slug, APIURL: forge.APIURL(a.kept.URL), HTMLURL: a.kept.HTMLURL,
		WebhookSecrets: len(a.kept.valid(g.clock.Now())), ChangedAt: a.changedAt,
	}
}

// newSecret is a webhook's secret: 128 bits and more, as characters.
func newSecret() []byte { return []byte(rand.Text()) }
