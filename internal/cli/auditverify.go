package cli

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"os"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/audit"
)

// maxKeyFile bounds what is read of a file with public keys.
const maxKeyFile = 64 << 10

type auditVerifyCmd struct {
	chainFlags

	File    string `help:"Verify this export in place of what the server tells, without asking it anything; - is standard input." placeholder:"FILE"`
	KeyFile string `help:"File with the public key, as nimbus audit key wrote it; several if it was replaced. Default: the server is asked." type:"path" placeholder:"FILE"`
	Against string `help:"An earlier export of the chain: what it has must still be there." type:"path" placeholder:"FILE"`
}

func (*auditVerifyCmd) Help() string {
	return `The entries and checkpoints are fetched and verified here, so that the server need not be trusted, given that the key was kept elsewhere. Exit code 0: intact; 3: broken, the first entry that is wrong is named.

` + usage(
		"nimbus audit verify",
		"nimbus audit verify --platform --key-file nimbus-audit.pem --against platform-2026-05.jsonl",
		"nimbus audit verify --file platform.jsonl --key-file nimbus-audit.pem",
		"zcat acme.jsonl.gz | nimbus audit verify --file - --key-file nimbus-audit.pem --json",
	)
}

// verdictView is what came of it as --json shows it.
type verdictView struct {
	Intact      bool       `json:"intact"`
	OrgID       string     `json:"org_id"`
	Entries     int64      `json:"entries"`
	Checkpoints int64      `json:"checkpoints"`
	FirstBad    *wrongView `json:"first_bad,omitempty"`
}

type wrongView struct {
	Seq     int64  `json:"seq"`
	ID      string `json:"id,omitempty"`
	Problem string `json:"problem"`
}

func (c *auditVerifyCmd) Run(ctx context.Context, a *app) error {
	kept, err := c.kept()
	if err != nil {
		return err
	}
	var v *audit.Verifier
	var org string
	if c.File != "" {
		v, org, err = c.offline(kept)
	} else {
		v, org, err = c.online(ctx, a, kept)
	}
	var broken *audit.BrokenError
	if err != nil && !errors.As(err, &broken) {
		return err
	}
	entries, checkpoints, err := v.End()
	if err != nil && !errors.As(err, &broken) {
		return err
	}
	return a.printVerdict(verdictView{Intact: broken == nil, OrgID: org, Entries: entries, Checkpoints: checkpoints}, broken)
}

func (a *app) printVerdict(view verdictView, broken *audit.BrokenError) error {
	if broken != nil {
		view.FirstBad = &wrongView{broken.Seq, broken.ID, broken.What}
	}
	if a.root.JSON {
		if err := a.printJSON(view); err != nil || broken == nil {
			return err
		}
		return &exitError{code: ExitBroken}
	}
	if broken != nil {
		return &exitError{code: ExitBroken, err: broken}
	}
	whose := "the platform's chain"
	if view.OrgID != "" {
		whose = "the chain of " + view.OrgID
	}
	a.info("%s is intact: %d entries, %d checkpoints", whose, view.Entries, view.Checkpoints)
	return nil
}

// kept are the checkpoints of the earlier export.
func (c *auditVerifyCmd) kept() (checkpointsOf, error) {
	if c.Against == "" {
		return nil, nil
	}
	f, err := os.Open(c.Against)
	if err != nil {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "the earlier export can't be read: %w", err)
	}
	defer f.Close()
	var kept checkpointsOf
	err = audit.Read(f, func(string) audit.Sink { return &kept })
	return kept, err
}

// checkpointsOf gathers the checkpoints of an export. It implements audit.Sink.
type checkpointsOf []nimbus.AuditCheckpoint

func (*checkpointsOf) Entry(nimbus.AuditEntry) error { return nil }

func (k *checkpointsOf) Checkpoint(c nimbus.AuditCheckpoint) error {
	*k = append(*k, c)
	return nil
}

// verifier expects the checkpoints that were kept.
func (k checkpointsOf) verifier(org string, keys []ed25519.PublicKey) (*audit.Verifier, error) {
	v := audit.NewVerifier(org, keys...)
	for _, c := range k {
		if err := v.Expect(c); err != nil {
			return v, err
		}
	}
	return v, nil
}

func (c *auditVerifyCmd) offline(kept checkpointsOf) (v *audit.Verifier, org string, err error) {
	if c.KeyFile == "" {
		return nil, "", nimbus.Errorf(nimbus.CodeInvalid, "an export is verified by a key").WithHint("nimbus audit key > nimbus-audit.pem, then --key-file nimbus-audit.pem")
	}
	keys, err := readKeys(c.KeyFile)
	if err != nil {
		return nil, "", err
	}
	f := os.Stdin
	if c.File != "-" {
		if f, err = os.Open(c.File); err != nil {
			return nil, "", nimbus.Errorf(nimbus.CodeInvalid, "the export can't be read: %w", err)
		}
		defer f.Close()
	}
	var unexpected error
	err = audit.Read(f, func(orgID string) audit.Sink {
		org = orgID
		v, unexpected = kept.verifier(orgID, keys)
		return v
	})
	return v, org, errors.Join(unexpected, err)
}

func (c *auditVerifyCmd) online(ctx context.Context, a *app, kept checkpointsOf) (*audit.Verifier, string, error) {
	cl, err := a.connect()
	if err != nil {
		return nil, "", err
	}
	defer cl.Close()
	keys, err := c.keys(ctx, a, cl)
	if err != nil {
		return nil, "", err
	}
	chain := remoteChain{cl, c.Platform}
	org, err := c.orgID(ctx, a.root.Org, chain)
	if err != nil {
		return nil, "", err
	}
	v, err := kept.verifier(org, keys)
	if err != nil {
		return v, org, err
	}
	return v, org, audit.Walk(ctx, chain, v)
}

// orgID is whose chain it must be: that of the id that was asked for, or else
// of the first entry, which is told with the verdict.
func (c *auditVerifyCmd) orgID(ctx context.Context, asked string, chain remoteChain) (string, error) {
	switch {
	case c.Platform:
		return "", nil
	case nimbus.CheckID(nimbus.PrefixOrg, asked) == nil:
		return asked, nil
	}
	first, _, err := chain.Entries(ctx, nimbus.PageRequest{Size: 1})
	if err != nil || len(first) == 0 {
		return asked, err
	}
	return first[0].OrgID, nil
}

// keys are those of the file, or else the one that the server tells.
func (c *auditVerifyCmd) keys(ctx context.Context, a *app, cl *client.Client) ([]ed25519.PublicKey, error) {
	if c.KeyFile != "" {
		return readKeys(c.KeyFile)
	}
	a.info("the key is the server's own word: verify by one that was kept elsewhere, --key-file")
	text, err := cl.AuditKey(ctx)
	if err != nil {
		return nil, err
	}
	return audit.DecodeKeys([]byte(text))
}

func readKeys(path string) ([]ed25519.PublicKey, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "the key can't be read: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "the key can't be read: %w", err)
	}
	return audit.DecodeKeys(text)
}
