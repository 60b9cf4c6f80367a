package cli

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/lifecycle"
	"github.com/nimbus-ci/nimbus/internal/server"
)

type serverCmd struct {
	listenFlags `embed:""`

	Operations operationsFlags `embed:""`
	Drain      time.Duration   `within:"0s..1h" help:"How long a server that was asked to stop still answers while /readyz says that it is not ready." default:"5s" placeholder:"TIME"`

	DatabaseWait time.Duration `within:"0s.." help:"How long to wait, at the start, for a database that does not answer." default:"2m" env:"NIMBUS_DATABASE_WAIT" placeholder:"TIME"`
	DatabaseFile string        `help:"File with the postgres:// URL of the database that all replicas share. Or set NIMBUS_DATABASE to the URL." type:"path" placeholder:"FILE"`
	RedisFile    string        `help:"File with the redis:// URL of what wakes other replicas. Or set NIMBUS_REDIS to it. Without one they learn of work a second or two later." type:"path" placeholder:"FILE"`

	S3     s3Flags      `embed:"" prefix:"s3-"`
	Copies logCopyFlags `embed:""`

	masterKeyFlags `embed:""`

	AllowTrustedLocal bool `help:"Let jobs from GitHub, and of orgs other than default, run on the local executor, which is no fence: for trusted code only."`

	GitHub githubFlags `embed:"" prefix:"github-"`
}

func (*serverCmd) Help() string {
	return `Starts one replica of the control plane. Any number of them work on one PostgreSQL, behind a plain load balancer; they keep nothing of their own. Background work is done by one of them at a time; another takes over within ten seconds.
Hosts run nimbus agent and reach any replica. The first replica that starts makes the administrator's token and keeps it in admin.token in its data directory.

` + usage(
		"NIMBUS_DATABASE=postgres://nimbus@db/nimbus nimbus server",
		"nimbus server --database-file db.url --redis-file redis.url --listen 0.0.0.0:443 --tls-cert chain.pem --tls-key key.pem",
	)
}

func (c *serverCmd) Run(ctx context.Context, a *app) error {
	ctx, stop := untilSignal(ctx)
	defer stop()
	cfg := server.ReplicaConfig{DatabaseWait: c.DatabaseWait, AllowTrustedLocal: c.AllowTrustedLocal, Log: a.logger()}
	var err error
	if cfg.Database, err = secretURL(c.DatabaseFile, "NIMBUS_DATABASE"); err != nil {
		return err
	}
	if cfg.Database == "" {
		return badUsage(nimbus.Errorf(nimbus.CodeInvalid, "no database is named").
			WithHint("set NIMBUS_DATABASE=postgres://…, or use `nimbus up`, which needs none"))
	}
	if cfg.Redis, err = secretURL(c.RedisFile, "NIMBUS_REDIS"); err != nil {
		return err
	}
	if cfg.S3, err = c.S3.config(); err != nil {
		return err
	}
	if cfg.GitHub, err = c.GitHub.app(); err != nil {
		return err
	}
	data, err := a.root.dataDir()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nimbus.Errorf(nimbus.CodeInvalid, "the data directory can't be made: %w", err)
	}
	cfg.MasterKey = c.source(data)
	cfg.AdminTokenFile = filepath.Join(data, server.AdminTokenFile)
	if cfg.PublicURL, err = c.publicURL(); err != nil {
		return err
	}
	if cfg.Operations, err = c.Operations.read(a.version); err != nil {
		return err
	}
	cfg.Drain = c.Drain
	if err := c.Copies.apply(&cfg.Operations); err != nil {
		return err
	}
	if cfg.TLS, err = c.tls(); err != nil {
		return err
	}
	if cfg.Listener, err = c.listen(ctx); err != nil {
		return err
	}
	s, err := server.OpenReplica(ctx, cfg)
	if err != nil {
		return errors.Join(err, cfg.Listener.Close())
	}
	group := lifecycle.Group{Log: cfg.Log, Services: []lifecycle.Service{s}}
	err = group.Run(ctx, func() { c.announce(a, s, cfg) })
	return errors.Join(err, s.Close())
}

// secretURL reads a URL that may hold a password from a file, or else from a
// variable: every user of the machine can read a command line.
func secretURL(file, variable string) (string, error) {
	if file == "" {
		return os.Getenv(variable), nil
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return "", nimbus.Errorf(nimbus.CodeInvalid, "a URL can't be read: %w", err)
	}
	return strings.TrimSpace(string(raw)), nil
}

func (c *serverCmd) announce(a *app, s *server.Server, cfg server.ReplicaConfig) {
	if a.root.JSON {
		_ = a.printJSON(announcement{URL: s.URL(), AdminToken: s.AdminToken()}) // nobody reads it: it serves all the same
		return
	}
	if s.AdminToken() != "" {
		a.info("administrator's token, shown this once: %s", s.AdminToken())
		a.info("%s", a.errStyle.Quiet("kept in "+cfg.AdminTokenFile+" for the command line on this machine"))
	}
	a.info("Nimbus listens on %s", a.errStyle.Bold(s.URL()))
}
