package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/audit"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
)

type auditCmd struct {
	List   auditListCmd   `cmd:"" default:"withargs" help:"List entries, newest first."`
	Export auditExportCmd `cmd:"" help:"Write a whole chain as lines of JSON."`
	Verify auditVerifyCmd `cmd:"" help:"Verify a chain: that nothing was changed, moved or left out."`
	Key    auditKeyCmd    `cmd:"" help:"Show the public key that checkpoints are verified by."`
}

// chainFlags say which chain is meant: that of the org, or the platform's.
type chainFlags struct {
	Platform bool `help:"The platform's own chain, in place of the org's."`
}

// remoteChain is a chain at a server. It implements audit.Source.
type remoteChain struct {
	*client.Client
	platform bool
}

func (r remoteChain) Entries(ctx context.Context, page nimbus.PageRequest) ([]nimbus.AuditEntry, string, error) {
	return r.AuditEntries(ctx, r.platform, nimbus.AuditFilter{OldestFirst: true}, page)
}

func (r remoteChain) Checkpoints(ctx context.Context, page nimbus.PageRequest) ([]nimbus.AuditCheckpoint, string, error) {
	return r.AuditCheckpoints(ctx, r.platform, page)
}

type auditListCmd struct {
	chainFlags

	Actor  string `help:"Only what this actor did, user:ID or the like." placeholder:"ACTOR"`
	Action string `help:"Only this action." placeholder:"NOUN.VERB"`
	Target string `help:"Only what was done to this." placeholder:"ID"`
	Since  moment `help:"Only entries from this time on: 90m, 7d, 2026-05-01 or 2026-05-01T12:00:00Z." placeholder:"TIME"`
	Until  moment `help:"Only entries from before this time." placeholder:"TIME"`
	Limit  int    `within:"1..100000" help:"How many at most." default:"50" short:"n"`
}

func (*auditListCmd) Help() string {
	return "Each org has a chain of its own, for its admins; the platform's is for administrators of the platform.\n\n" + usage(
		"nimbus audit",
		"nimbus audit list --platform --action host.cordon",
		"nimbus audit list --action access.deny --since 24h",
		"nimbus audit list --org acme --json | jq -r '.entries[] | [.at, .actor, .action, .target] | @tsv'",
	)
}

// auditView is an entry as --json shows it.
type auditView struct {
	OrgID   string              `json:"org_id"`
	Seq     int64               `json:"seq"`
	ID      string              `json:"id"`
	At      time.Time           `json:"at"`
	Actor   string              `json:"actor"`
	Action  string              `json:"action"`
	Target  string              `json:"target"`
	Outcome nimbus.AuditOutcome `json:"outcome"`
	Count   int64               `json:"count"`
	Detail  map[string]string   `json:"detail,omitempty"`
	Hash    nimbus.AuditHash    `json:"hash"`
}

func (c *auditListCmd) Run(ctx context.Context, a *app) error {
	entries, err := c.list(ctx, a)
	if err != nil {
		return err
	}
	if a.root.JSON {
		v := struct {
			Entries []auditView `json:"entries"`
		}{Entries: []auditView{}}
		for _, e := range entries {
			v.Entries = append(v.Entries, auditView{e.OrgID, e.Seq, e.ID, e.At, e.Actor, e.Action, e.Target, e.Outcome, e.Count, e.Detail, e.Hash})
		}
		return a.printJSON(v)
	}
	if len(entries) == 0 {
		a.info("no entries")
		return nil
	}
	rows := make([]string, len(entries))
	for i, e := range entries {
		rows[i] = fmt.Sprintf("%d\t%s\t%s\t%s\t%s\t%s\t%d\t%s", e.Seq, e.At.Local().Format(time.DateTime), terminal.OneLine(e.Actor), terminal.OneLine(e.Action),
			terminal.OneLine(e.Target), e.Outcome, e.Count, clip(terminal.OneLine(detail(e))))
	}
	return a.table("SEQ\tTIME\tACTOR\tACTION\tTARGET\tOUTCOME\tCOUNT\tDETAIL", rows)
}

func detail(e nimbus.AuditEntry) string {
	var words []string
	for _, key := range slices.Sorted(maps.Keys(e.Detail)) {
		words = append(words, key+"="+e.Detail[key])
	}
	return strings.Join(words, " ")
}

// list pages until it has as many as were asked for.
func (c *auditListCmd) list(ctx context.Context, a *app) (entries []nimbus.AuditEntry, err error) {
	cl, err := a.connect()
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	f := nimbus.AuditFilter{Actor: c.Actor, Action: c.Action, Target: c.Target, Since: c.Since.Time, Until: c.Until.Time}
	next := ""
	for len(entries) < c.Limit {
		var page []nimbus.AuditEntry
		size := min(c.Limit-len(entries), nimbus.MaxAuditPage)
		if page, next, err = cl.AuditEntries(ctx, c.Platform, f, nimbus.PageRequest{Size: size, Token: next}); err != nil {
			return nil, err
		}
		if entries = append(entries, page...); next == "" {
			break
		}
	}
	return entries, nil
}

type auditExportCmd struct{ chainFlags }

func (*auditExportCmd) Help() string {
	return `One line of JSON for each entry, oldest first, and for each checkpoint behind the entry that it is about. Keep exports off the machines that run Nimbus: a history that was written anew as a whole, by somebody with the database and the master key, is found by the checkpoints of an earlier export alone.

` + usage("nimbus audit export --platform > platform.jsonl", "nimbus audit export --org acme | gzip > acme-$(date +%F).jsonl.gz")
}

func (c *auditExportCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	return audit.Walk(ctx, remoteChain{cl, c.Platform}, audit.NewWriter(a.Out))
}

type auditKeyCmd struct{}

func (*auditKeyCmd) Help() string {
	return "Keep the key where the server can't reach it: who verifies with a key that the server tells today trusts the server.\n\n" +
		usage("nimbus audit key > nimbus-audit.pem")
}

func (*auditKeyCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	key, err := cl.AuditKey(ctx)
	if err != nil {
		return err
	}
	if a.root.JSON {
		return a.printJSON(struct {
			PublicKey string `json:"public_key"`
		}{key})
	}
	fmt.Fprint(a.Out, key)
	return nil
}
