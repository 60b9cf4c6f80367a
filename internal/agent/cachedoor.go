package agent

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/guestlink"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// CacheDoor stands between jobs of GitHub's and GitHub's cache service, at the
// gateway of their sandboxes.
type CacheDoor interface {
	// Names are those that lead to the door in a sandbox.
	Names() []string
	// Trust is the certificate that a sandbox is to trust, and its id.
	Trust() (id string, pem []byte, err error)
	// Admit lets a sandbox in, by the id of its network, until leave is called.
	// trust is the id of what it trusts, reach tells what its job may reach, and
	// token is asked for at each call; an error of it has GitHub answer.
	Admit(sandbox, trust string, reach func(name string) bool, token func(context.Context) (string, error)) (leave func())
}

const (
	// boundPatience is how long the calls of a job wait in all until it is proved
	// which job its runner has: GitHub tells that within seconds, and a cache that
	// is not restored costs more.
	boundPatience = 25 * time.Second
	boundPause    = 500 * time.Millisecond
	// tokenTimeout bounds one try to get a token, and tokenPause is for how long
	// none is made after one that failed for another reason.
	tokenTimeout = 12 * time.Second
	tokenPause   = 15 * time.Second
)

// trustedElsewhere are variables by which an image has its programs trust other
// certificates than the system's: those of the door would be none of them.
func trustedElsewhere() []string {
	return []string{"NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE"}
}

// wantsCacheDoor tells whether a sandbox is to have the door, which its network
// leads to and its programs trust.
func (g *guest) wantsCacheDoor(ctx context.Context) bool {
	t := g.t
	if !t.assign.CacheDoor || t.assign.Source != nimbus.SourceGitHub || t.agent.cfg.CacheDoor == nil || g.sandbox.Network() == nil {
		return false
	}
	if _, ok := g.sandbox.(executor.Doored); !ok {
		return false
	}
	env := imageEnv(g.sandbox)
	for _, name := range trustedElsewhere() {
		if env[name] != "" {
			t.say(ctx, "cache: GitHub's own is used, since the image sets "+name)
			return false
		}
	}
	return true
}

// leadToCacheDoor has what a sandbox is told of itself lead there. It has effect
// once: what it trusts stays.
func (g *guest) leadToCacheDoor(ctx context.Context, r *nimbusv1.PrepareRequest) {
	if !g.wantsCacheDoor(ctx) {
		return
	}
	id, certificate, err := g.t.agent.cfg.CacheDoor.Trust()
	if err != nil {
		g.t.log.WarnContext(ctx, "GitHub's own cache is used", "error", err)
		return
	}
	g.t.state.CacheTrust, r.CaPem = id, certificate
	for _, name := range g.t.agent.cfg.CacheDoor.Names() {
		r.Network.Hosts[name] = r.GetNetwork().GetGateway()
	}
}

// cacheDoorEnv is for programs that have certificates of their own.
func (t *attempt) cacheDoorEnv() map[string]string {
	if t.state.CacheTrust == "" {
		return nil
	}
	return map[string]string{"NODE_EXTRA_CA_CERTS": guestlink.TrustedFile}
}

// admitToCacheDoor lets the sandbox in that was led there, until the guest is closed.
func (g *guest) admitToCacheDoor() {
	t := g.t
	doored, ok := g.sandbox.(executor.Doored)
	if t.state.CacheTrust == "" || t.agent.cfg.CacheDoor == nil || !ok {
		return
	}
	g.cache = &cacheTokens{attempt: t, patience: boundPatience}
	g.leave = t.agent.cfg.CacheDoor.Admit(doored.NetworkID(), t.state.CacheTrust, reaches(t.assign.Class), g.cache.get)
}

// reaches tells what a job may reach, as its fence does.
func reaches(c nimbus.Class) func(name string) bool {
	return func(name string) bool {
		return c.Network == nimbus.NetworkInternet || c.Network == nimbus.NetworkNames && c.Reach.Match(name)
	}
}

// sayCache ends the job's log with why its cache was not as usual.
func (g *guest) sayCache(ctx context.Context) {
	if g.cache == nil {
		return
	}
	g.cache.mu.Lock()
	defer g.cache.mu.Unlock()
	for _, why := range g.cache.reasons {
		g.t.say(ctx, "cache: "+why)
	}
}

// cacheTokens gets the token of an attempt's job: once, since it ends with the job.
type cacheTokens struct {
	attempt *attempt

	mu       sync.Mutex
	token    string
	patience time.Duration // that is left
	failed   error
	again    time.Time // when to ask again after that
	reasons  []string  // why it is not as usual
}

// get returns the token. Calls of one sandbox wait for each other: they want the
// same.
func (c *cacheTokens) get(ctx context.Context) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token != "" {
		return c.token, nil
	}
	if time.Now().Before(c.again) {
		return "", c.failed
	}
	for {
		began := time.Now()
		answer, err := c.ask(ctx)
		if err == nil {
			c.token = answer.GetToken()
			c.tell(ctx, answer.GetReason())
			return c.token, nil
		}
		unproved := nimbus.ErrorCode(err) == nimbus.CodeConflict
		if unproved && c.patience > 0 && pause(ctx, boundPause) {
			c.patience -= time.Since(began)
			continue
		}
		if c.failed = err; !unproved {
			c.again = time.Now().Add(tokenPause)
		}
		c.tell(ctx, "GitHub's own is used: "+err.Error())
		return "", err
	}
}

func (c *cacheTokens) ask(ctx context.Context) (*nimbusv1.CreateCacheTokenResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	t := c.attempt
	answer, err := t.agent.control.CreateCacheToken(ctx, connect.NewRequest(&nimbusv1.CreateCacheTokenRequest{Lease: wire.Lease(t.lease())}))
	if err != nil {
		return nil, err
	}
	if answer.Msg.GetToken() == "" {
		return nil, errors.New("the control plane gave no token")
	}
	return answer.Msg, nil
}

// tell notes why the cache is not as usual, each reason once.
func (c *cacheTokens) tell(ctx context.Context, why string) {
	const most = 4 // reasons are ours, but their number may not be
	if why == "" || slices.Contains(c.reasons, why) || len(c.reasons) == most {
		return
	}
	c.reasons = append(c.reasons, why)
	c.attempt.log.InfoContext(ctx, "the job's cache is not as usual", "reason", why)
}

// pause waits; false means that ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
