package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs/clickhouse"
	"github.com/nimbus-ci/nimbus/internal/server"
)

type logsMigrateCmd struct {
	clickhouseFlags `embed:""`

	Cluster string `help:"Make replicated tables on all servers of this cluster, as ClickHouse's own configuration names it." placeholder:"NAME"`
	DryRun  bool   `help:"Change nothing: print the statements."`
	Reader  string `help:"Print what lets a user of ClickHouse read the lines of one org alone, for an administrator of ClickHouse to run: USER=ORG_ID." placeholder:"USER=ORG"`
}

func (*logsMigrateCmd) Help() string {
	return `Makes the database and the tables of logs in ClickHouse, or brings them up to date; the server does not. It may be repeated. The user needs CREATE on the database, SELECT and INSERT on log_versions. Servers of a release whose tables are older go on.

` + usage(
		"nimbus logs migrate --clickhouse https://clickhouse:8443/nimbus --clickhouse-user admin --clickhouse-password-file admin.password",
		"nimbus logs migrate --clickhouse http://localhost:8123/nimbus --dry-run",
		"nimbus logs migrate --clickhouse http://localhost:8123/nimbus --cluster main",
		"nimbus logs migrate --clickhouse http://localhost:8123/nimbus --reader analyst=org_01kb2v6m9v3r8y4n5q7s0t1w2x",
	)
}

// logsMigration is what --json writes.
type logsMigration struct {
	From       int      `json:"from"`
	To         int      `json:"to,omitempty"`
	Statements []string `json:"statements"`
}

func (c *logsMigrateCmd) Run(ctx context.Context, a *app) error {
	cfg, err := c.config()
	if err != nil {
		return err
	}
	if cfg == nil {
		return badUsage(nimbus.Errorf(nimbus.CodeInvalid, "no ClickHouse is named").WithHint("give --clickhouse https://host:8443/nimbus"))
	}
	if c.Reader != "" {
		return c.reader(a, *cfg)
	}
	m, err := server.MigrateLogs(ctx, *cfg, clickhouse.Layout{Cluster: c.Cluster}, c.DryRun)
	if err != nil {
		return err
	}
	if a.root.JSON {
		return a.printJSON(logsMigration{From: m.From, To: m.To, Statements: append([]string{}, m.Statements...)})
	}
	switch {
	case len(m.Statements) == 0 && m.From == m.To:
		a.info("the tables are up to date: version %d", m.From)
	case c.DryRun && len(m.Statements) == 0:
		a.info("there is nothing to do: version %d", m.From)
	case c.DryRun:
		return printStatements(a, m.Statements)
	case m.From == m.To:
		a.info("the tables are up to date: version %d", m.From)
	default:
		a.info("the tables were brought from version %d to %d", m.From, m.To)
	}
	return nil
}

// reader prints what makes a user a reader of one org.
func (c *logsMigrateCmd) reader(a *app, cfg clickhouse.Config) error {
	user, org, ok := strings.Cut(c.Reader, "=")
	if !ok {
		return badUsage(nimbus.Errorf(nimbus.CodeInvalid, "%q names no user and org", c.Reader).WithHint("it looks like analyst=org_…"))
	}
	statements, err := server.LogReader(cfg, user, org)
	if err != nil {
		return badUsage(err)
	}
	if a.root.JSON {
		return a.printJSON(logsMigration{Statements: statements})
	}
	return printStatements(a, statements)
}

func printStatements(a *app, statements []string) error {
	for _, s := range statements {
		if _, err := fmt.Fprintln(a.Out, s+";"); err != nil {
			return err
		}
	}
	return nil
}
