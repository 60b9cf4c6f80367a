package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// credential is what the host got for its join token.
type credential struct {
	Server string `json:"server"`
	HostID string `json:"host_id"`
	Token  string `json:"token"`
}

func (a *Agent) credentialFile() string { return filepath.Join(a.cfg.Data, "credential.json") }

// join reads the host's credential, or trades the join token for one.
func (a *Agent) join(ctx context.Context) error {
	raw, err := os.ReadFile(a.credentialFile())
	switch {
	case err == nil:
		if err := json.Unmarshal(raw, &a.credential); err != nil {
			return fmt.Errorf("read the host's credential: %w", err)
		}
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("read the host's credential: %w", err)
	case a.cfg.JoinToken == "":
		return nimbus.Errorf(nimbus.CodeUnauthenticated, "this host has not joined a control plane").
			WithHint("make a join token with `nimbus hosts token` and give it by --join-token-file")
	}
	answer, err := call(ctx, a.control.Join, &nimbusv1.JoinRequest{
		JoinToken: a.cfg.JoinToken, Name: a.cfg.Name, Version: a.cfg.Version, Inventory: wire.Inventory(a.inventory(ctx)),
	})
	if err != nil {
		return fmt.Errorf("join %s: %w", a.cfg.Server, err)
	}
	a.credential = credential{Server: a.cfg.Server, HostID: answer.GetHostId(), Token: answer.GetHostToken()}
	if err := writeJSON(a.credentialFile(), a.credential); err != nil {
		return fmt.Errorf("keep the host's credential: %w", err)
	}
	a.log.InfoContext(ctx, "joined", "server", a.cfg.Server, "host", a.credential.HostID)
	return nil
}

// writeJSON replaces a file of the agent's own, durably, for its eyes alone.
func writeJSON(path string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	f, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	_, err = f.Write(raw)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return fmt.Errorf("replace: %w", err)
	}
	return nil
}
