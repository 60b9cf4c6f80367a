// Package replica runs the built control plane for a bench, in a process of its
// own, as a user would start it.
package replica

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/testenv"
	"github.com/nimbus-ci/nimbus/test/simhost"
)

// Plane is a control plane in a process of its own, with a GitHub App that
// makes no calls.
type Plane struct {
	URL       string
	Client    *client.Client
	TokenFile string // the administrator's
	Secret    []byte // of the App's webhook

	cmd *exec.Cmd
	log string
}

const (
	startTimeout = time.Minute
	joinsAtOnce  = 16
)

// Start starts the built program: a replica on the database with the URL, or
// the embedded profile where that is "". What it keeps goes into a folder of dir.
func Start(ctx context.Context, dir, database string) (_ *Plane, err error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("find a free port: %w", err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		return nil, fmt.Errorf("free the port: %w", err)
	}
	data, err := os.MkdirTemp(dir, "plane-")
	if err != nil {
		return nil, fmt.Errorf("make a data directory: %w", err)
	}
	secret := []byte(rand.Text())
	flags, err := github(data, secret)
	if err != nil {
		return nil, err
	}
	args := []string{"server"}
	if database == "" {
		args = []string{"up", "--no-agent"}
	}
	args = append(append(args, "--data", data, "--listen", address, "--log-level", "error"), append(flags, limits()...)...)
	p := &Plane{URL: "http://" + address, TokenFile: filepath.Join(data, "admin.token"), Secret: secret,
		cmd: exec.CommandContext(ctx, "bin/nimbus", args...), log: filepath.Join(data, "log")}
	p.cmd.Env = append(os.Environ(), "NIMBUS_DATABASE="+database)
	log, err := os.Create(p.log)
	if err != nil {
		return nil, fmt.Errorf("make a log: %w", err)
	}
	defer log.Close()
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := testenv.StartBound(p.cmd); err != nil {
		return nil, fmt.Errorf("start bin/nimbus: %w", err)
	}
	defer func() {
		if err != nil {
			p.Stop()
		}
	}()
	if err := p.awaitReady(ctx); err != nil {
		return nil, err
	}
	token, err := os.ReadFile(p.TokenFile)
	if err != nil {
		return nil, fmt.Errorf("read the administrator's token: %w", err)
	}
	p.Client, err = client.New(client.Config{Server: p.URL, Token: strings.TrimSpace(string(token))})
	return p, err
}

// limits are off: all that a bench sends comes from one address, for one
// installation.
func limits() []string {
	var out []string
	for _, of := range []string{"submit", "api", "webhook", "stranger", "host"} {
		out = append(out, "--limit-"+of+"=off")
	}
	return out
}

// github makes the App that deliveries are signed for.
func github(dir string, secret []byte) ([]string, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("make the App's key: %w", err)
	}
	keyFile, secretFile := filepath.Join(dir, "app.pem"), filepath.Join(dir, "secret")
	err = errors.Join(
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}), 0o600),
		os.WriteFile(secretFile, secret, 0o600))
	// Nothing listens there: a cycle makes no call to GitHub.
	return []string{"--github-app-id", "1", "--github-key-file", keyFile, "--github-webhook-secret-file", secretFile,
		"--github-url", "http://127.0.0.1:1"}, err
}

func (p *Plane) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL+"/readyz", nil)
		if err != nil {
			return fmt.Errorf("ask whether it is ready: %w", err)
		}
		if answer, err := http.DefaultClient.Do(r); err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			text, _ := os.ReadFile(p.log)
			return fmt.Errorf("the server does not answer: %s", text)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Stop ends it.
func (p *Plane) Stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	_ = p.cmd.Wait()
}

// PID is that of its process.
func (p *Plane) PID() int { return p.cmd.Process.Pid }

// Join lets n simulated hosts join, some at once.
func Join(ctx context.Context, c *client.Client, n, slots int) ([]*simhost.Host, error) {
	out := make([]*simhost.Host, n)
	joins, ctx := errgroup.WithContext(ctx)
	joins.SetLimit(joinsAtOnce)
	for i := range n {
		joins.Go(func() error {
			token, _, err := c.CreateJoinToken(ctx, 0)
			if err != nil {
				return fmt.Errorf("make a join token: %w", err)
			}
			out[i], err = simhost.Join(ctx, simhost.Config{Server: c.Server(), JoinToken: token, Name: fmt.Sprint("host", i), Slots: slots})
			return err
		})
	}
	return out, joins.Wait()
}
