package cli

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/host"
	"github.com/nimbus-ci/nimbus/internal/server"
)

type upCmd struct {
	listenFlags    `embed:""`
	masterKeyFlags `embed:""`

	Operations operationsFlags `embed:""`
	Copies     logCopyFlags    `embed:""`

	Agent             bool     `help:"Run jobs on this machine too." default:"true" negatable:""`
	Executors         []string `help:"Executors that this machine uses: microvm, firecracker, docker, gpu, local. Default: all but docker and gpu, whose jobs share this machine's kernel." enum:"microvm,firecracker,docker,gpu,local" placeholder:"NAME"`
	Capability        []string `help:"A word that jobs can need of this machine, like pytorch, besides what it shows by itself; may be repeated." placeholder:"WORD"`
	AllowTrustedLocal bool     `help:"Let jobs from GitHub, and of orgs other than default, run on the local executor, which is no fence: for trusted code only."`

	host.LoadFlags
	host.MicroVMFlags

	GitHub githubFlags `embed:"" prefix:"github-"`

	Demo demoFlags `embed:""`
}

func (*upCmd) Help() string {
	return `Starts everything in one process: server, dashboard and an agent that runs jobs on this machine. All it keeps is in the data directory.
The first start prints the administrator's token, once, and keeps it in admin.token for the command line on this machine.
SIGTERM or Ctrl-C stops it; jobs that run go on, and the next start takes them over if it comes within 25 s: later their leases are over, and the jobs are lost.

` + usage(
		"nimbus up",
		"nimbus up --listen 0.0.0.0:443 --tls-cert chain.pem --tls-key key.pem",
		"nimbus up --github-app-id 12345 --github-key-file app.pem --github-webhook-secret-file secret",
		"nimbus up --executors microvm,docker",
		"nimbus up --executors gpu --gpu-image pytorch=docker.io/pytorch/pytorch:2.7.1-cuda12.6-cudnn9-runtime",
		"nimbus up --no-agent",
		"nimbus up --demo",
	)
}

func (c *upCmd) Run(ctx context.Context, a *app) error {
	began := time.Now()
	ctx, stop := untilSignal(ctx)
	defer stop()
	data, err := a.root.dataDir()
	if err != nil {
		return err
	}
	if c.Demo.Demo {
		return c.Demo.run(ctx, a, c, data)
	}
	e := server.Embedded{Config: server.Config{Data: data, MasterKey: c.source(data),
		AllowTrustedLocal: c.AllowTrustedLocal, Log: a.logger()}}
	if e.GitHub, err = c.GitHub.app(); err != nil {
		return err
	}
	if e.PublicURL, err = c.publicURL(); err != nil {
		return err
	}
	if e.Operations, err = c.Operations.read(a.version); err != nil {
		return err
	}
	if err := c.Copies.apply(&e.Operations); err != nil {
		return err
	}
	if e.TLS, err = c.tls(); err != nil {
		return err
	}
	if e.Listener, err = c.listen(ctx); err != nil {
		return err
	}
	if c.Agent {
		e.Agent = &host.Config{Version: a.version, Executors: c.Executors, Capabilities: c.Capability, Programs: finder(data)}
		c.ApplyLoad(e.Agent)
		if err := c.Apply(e.Agent); err != nil {
			return errors.Join(err, e.Listener.Close())
		}
	}
	e.OnReady = func(ctx context.Context, s *server.Server) error {
		e.Log.DebugContext(ctx, "requests are answered", "after", time.Since(began))
		return c.announce(ctx, a, s, data)
	}
	return e.Run(ctx, func() { e.Log.DebugContext(ctx, "ready", "after", time.Since(began)) })
}

// announcement is what --json writes once requests are answered.
type announcement struct {
	URL        string `json:"url"`
	LoginURL   string `json:"login_url,omitempty"`   // where one could be made
	AdminToken string `json:"admin_token,omitempty"` // at the first start
}

func (c *upCmd) announce(ctx context.Context, a *app, s *server.Server, data string) error {
	out := announcement{URL: s.URL(), AdminToken: s.AdminToken()}
	login, failed := s.LoginPath(ctx)
	if failed == nil {
		out.LoginURL = s.URL() + login
	} else if ctx.Err() == nil { // what makes room, such as `nimbus cache rm`, needs a server that runs
		a.info("no login link could be made, the server runs without: %v", failed)
	}
	if a.root.JSON {
		return a.printJSON(out)
	}
	if out.AdminToken != "" {
		a.info("administrator's token, shown this once: %s", out.AdminToken)
		a.info("%s", a.errStyle.Quiet("kept in "+filepath.Join(data, server.AdminTokenFile)+" for the command line on this machine"))
	}
	a.info("Nimbus listens on %s", a.errStyle.Bold(out.URL))
	if out.LoginURL != "" {
		a.info("dashboard, once within ten minutes: %s", out.LoginURL)
	}
	return nil
}

// githubFlags connect a GitHub App. Secrets are in files: every user of the
// machine can read a command line.
type githubFlags struct {
	AppID             int64  `within:"1.." help:"Id of the GitHub App." placeholder:"ID"`
	KeyFile           string `help:"File with the App's private key, PEM." type:"path" placeholder:"FILE"`
	WebhookSecretFile string `help:"File with the webhook's secret; one a line while it is rotated." type:"path" placeholder:"FILE"`
	URL               string `help:"Address of GitHub's API. Default: https://api.github.com." placeholder:"URL"`
}

// app reads what the flags name; nil when they name nothing.
func (g githubFlags) app() (*server.GitHub, error) {
	if g == (githubFlags{}) {
		return nil, nil
	}
	if g.AppID == 0 || g.KeyFile == "" || g.WebhookSecretFile == "" {
		return nil, badUsage(nimbus.Errorf(nimbus.CodeInvalid, "--github-app-id, --github-key-file and --github-webhook-secret-file belong together"))
	}
	key, err := os.ReadFile(g.KeyFile)
	if err != nil {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "the App's key can't be read: %w", err)
	}
	raw, err := os.ReadFile(g.WebhookSecretFile)
	if err != nil {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "the webhook's secret can't be read: %w", err)
	}
	app := &server.GitHub{AppID: g.AppID, PrivateKey: key, URL: g.URL}
	for line := range bytes.Lines(raw) {
		if secret := bytes.TrimSpace(line); len(secret) > 0 {
			app.WebhookSecrets = append(app.WebhookSecrets, secret)
		}
	}
	if len(app.WebhookSecrets) == 0 {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "the file %s has no secret in it", g.WebhookSecretFile)
	}
	return app, nil
}
