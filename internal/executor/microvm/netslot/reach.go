package netslot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/vishvananda/netns"

	"github.com/nimbus-ci/nimbus"
)

// Reach is what the guest of a slot may reach besides the gateway.
type Reach struct {
	Profile nimbus.NetworkProfile `json:"profile"`
	// Names are those of the profile "names".
	Names nimbus.Names `json:"names,omitempty"`
}

// ReachOf is the reach that a class asks for.
func ReachOf(c nimbus.Class) Reach { return Reach{Profile: c.Network, Names: c.Reach} }

// What a slot's guest may reach is kept in a file, for the process that adopts
// the slot. Like the namespaces it goes when the machine restarts.
const (
	defaultState = "/run/nimbus-slots"
	reachSuffix  = ".json"
)

func (m *Manager) reachFile(id string) string {
	return filepath.Join(m.cfg.State, m.name(id)+reachSuffix)
}

func (m *Manager) keepReach(id string, r Reach) error {
	if err := os.MkdirAll(m.cfg.State, 0o700); err != nil {
		return fmt.Errorf("make folder of network slots: %w", err)
	}
	raw, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode reach of network slot: %w", err)
	}
	if err := os.WriteFile(m.reachFile(id), raw, 0o600); err != nil {
		return fmt.Errorf("keep reach of network slot: %w", err)
	}
	return nil
}

// reachOf reads what an earlier process kept. Agents before there were names
// kept nothing, and their slots with a way out reach the internet. Whatever is
// said here, the fence stands as it was made.
func (m *Manager) reachOf(id string, ns netns.NsHandle) (Reach, error) {
	raw, err := os.ReadFile(m.reachFile(id))
	var r Reach
	switch {
	case err == nil:
		if err = json.Unmarshal(raw, &r); err != nil {
			err = fmt.Errorf("read reach of network slot: %w", err)
		}
		return r, err
	case !errors.Is(err, fs.ErrNotExist):
		return r, fmt.Errorf("read reach of network slot: %w", err)
	}
	r.Profile = nimbus.NetworkNone
	out, err := hasLink(ns, upName)
	if out {
		r.Profile = nimbus.NetworkInternet
	}
	return r, err
}

func (m *Manager) forgetReach(id string) error {
	if err := os.Remove(m.reachFile(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget reach of network slot: %w", err)
	}
	return nil
}
