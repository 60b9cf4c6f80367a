package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/wholefile"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// credential is what the host is known by. It lies on the disk before the
// control plane hears of any of it.
type credential struct {
	Server string `json:"server"`
	HostID string `json:"host_id"` // "" until the host has joined
	Key    []byte `json:"key,omitempty"`
	// Enrolled is set once the control plane has the key.
	Enrolled bool   `json:"enrolled,omitempty"`
	Token    string `json:"token"` // of the session that is open
	// Number is that of the last session that was asked for, and Next its token
	// until it is known to be open.
	Number int64  `json:"number,omitempty"`
	Next   string `json:"next,omitempty"`
}

func (c credential) privateKey() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(c.Key) }

func (c credential) publicKey() []byte {
	public, _ := c.privateKey().Public().(ed25519.PublicKey)
	return public
}

// loadCredential reads what an earlier process kept; the zero credential is for
// a host that never was.
func loadCredential(path string) (c credential, err error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return credential{}, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &c)
	}
	if err == nil && c.Key != nil && len(c.Key) != ed25519.SeedSize {
		err = errors.New("its key is none")
	}
	if err != nil {
		return credential{}, fmt.Errorf("read the host's credential: %w", err)
	}
	return c, nil
}

// save keeps the credential, so that it is there after a power failure.
func (c credential) save(path string) error {
	if err := writeJSON(path, c); err != nil {
		return fmt.Errorf("keep the host's credential: %w", err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("keep the host's credential: %w", err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fmt.Errorf("keep the host's credential: %w", err)
	}
	return nil
}

// join has the control plane know this host: by the credential that is there,
// or else by the join token. A host that was removed joins anew if it can.
func (a *Agent) join(ctx context.Context) error {
	c, err := loadCredential(a.session.file)
	if err != nil {
		return err
	}
	if c.HostID != "" {
		a.session.set(c)
		err := a.session.start(ctx)
		if nimbus.ErrorCode(err) != nimbus.CodeUnauthenticated || a.cfg.JoinToken == "" {
			return err
		}
		a.log.WarnContext(ctx, "the control plane does not know this host any more, it joins anew", "host", c.HostID, "error", err)
		c = credential{}
	}
	if a.cfg.JoinToken == "" {
		return nimbus.Errorf(nimbus.CodeUnauthenticated, "this host has not joined a control plane").
			WithHint("make a join token with `nimbus hosts token` and give it by --join-token-file")
	}
	if c.Key == nil {
		c = credential{Server: a.cfg.Server, Key: make([]byte, ed25519.SeedSize)}
		rand.Read(c.Key) // never fails
	}
	return a.joinAs(ctx, c)
}

// joinAs trades the join token for a host that is known by the credential's
// key. A key that is kept first makes a lost answer harmless.
func (a *Agent) joinAs(ctx context.Context, c credential) error {
	if err := c.save(a.session.file); err != nil {
		return err
	}
	a.session.set(c) // what was known of a host that is no more is forgotten
	request := &nimbusv1.JoinRequest{
		JoinToken: a.cfg.JoinToken, Name: a.cfg.Name, Version: a.cfg.Version, Inventory: wire.Inventory(a.inventory(ctx)), PublicKey: c.publicKey(),
	}
	answer, err := a.tryJoin(ctx, request)
	if err != nil && retryable(err) {
		a.log.WarnContext(ctx, "join, and try again", "server", a.cfg.Server, "error", err, "hint", nimbus.ErrorHint(err))
		answer, err = call(ctx, a.control.Join, request)
	}
	if err != nil {
		return fmt.Errorf("join %s: %w", a.cfg.Server, err)
	}
	// A control plane from before hosts had keys answers with a token instead.
	c.HostID, c.Token = answer.GetHostId(), answer.GetHostToken()
	c.Enrolled = c.Token == ""
	if err := c.save(a.session.file); err != nil {
		return err
	}
	a.session.set(c)
	a.log.InfoContext(ctx, "joined", "server", a.cfg.Server, "host", c.HostID)
	return a.session.start(ctx)
}

func (a *Agent) tryJoin(ctx context.Context, request *nimbusv1.JoinRequest) (*nimbusv1.JoinResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := a.control.Join(ctx, connect.NewRequest(request))
	if err != nil {
		return nil, err
	}
	return answer.Msg, nil
}

// writeJSON replaces a file of the agent's own, durably, for its eyes alone.
func writeJSON(path string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	return wholefile.WriteDurable(path, raw, 0o600)
}
