package host

import (
	"context"
	"net"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/nimbus-ci/nimbus/internal/cache/intercept"
	"github.com/nimbus-ci/nimbus/internal/cache/near"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot"
)

// cacheDoor makes the door at which jobs of GitHub's find GitHub's cache service;
// what of that is the cache's goes to the door to the cache. It is nil where the
// operator has the gateway's port lead elsewhere: then jobs use GitHub's own.
func (c Config) cacheDoor(cache *near.Door) (*intercept.Door, error) {
	if slices.ContainsFunc(c.Relays, func(r netslot.Relay) bool { return r.Port == intercept.Port }) {
		c.Log.Warn("jobs of GitHub's use GitHub's own cache: a relay has the port that theirs would be at", "port", intercept.Port)
		return nil, nil
	}
	authority, err := intercept.OpenAuthority(filepath.Join(c.Data, "cache-authority"), intercept.Names())
	if err != nil {
		return nil, err
	}
	return intercept.New(intercept.Config{
		Authority: authority, Cache: "http://" + cache.Addr(), CacheHost: net.JoinHostPort(microvm.GatewayName, strconv.Itoa(near.Port)),
		Forward: c.GitHub, Log: c.Log,
	})
}

// githubDoor is that door as the agent takes it.
type githubDoor struct{ door *intercept.Door }

func (githubDoor) Names() []string { return intercept.Names() }

func (d githubDoor) Trust() (id string, pem []byte, err error) {
	trust, err := d.door.Trust()
	return trust.ID, trust.PEM, err
}

func (d githubDoor) Admit(sandbox, trust string, reach func(string) bool, token func(context.Context) (string, error)) (leave func()) {
	return d.door.Admit(sandbox, intercept.Session{Trust: trust, Reach: reach, Token: token})
}
