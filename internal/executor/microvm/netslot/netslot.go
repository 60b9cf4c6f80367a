// Package netslot gives each microVM a network of its own: a namespace with a
// tap, a fence of nftables around it, and relays to the few ports that the
// gateway offers.
//
//	 guest ── tap0 ┬ relays: 172.16.0.1:PORT ─▶ agent's process ─▶ target
//	172.16.0.2/30  └ fence ─ up0 ══ nimbusN ─ host's table ─ masquerade ─▶ public addresses
//	└──────── namespace of the slot ────────┘ └──────────── host ────────────┘
//
// Names and addresses inside are the same in every slot. The right half exists
// only for the profile "internet"; without it a slot has no way out but the
// relays. Relays live in this process: they end with it, and Adopt opens them
// again.
package netslot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
)

// What every slot has inside.
const (
	TapName  = "tap0"
	GuestMAC = "02:fc:00:00:00:02"
	tapMAC   = "02:fc:00:00:00:01"
	upName   = "up0"
)

// Addresses inside a slot.
var (
	Gateway = netip.MustParseAddr("172.16.0.1")
	Guest   = netip.MustParsePrefix("172.16.0.2/30")
)

// Config is what a Manager needs.
type Config struct {
	// Owner is in the names of namespaces, so that agents on one machine leave
	// each other's alone: lower-case letters and digits.
	Owner string
	// Relays are what every guest can reach, whatever its profile.
	Relays []Relay
	Log    *slog.Logger // default none
}

// Relay makes a TCP address that the host can reach a port of the gateway.
type Relay struct {
	Port   uint16
	Target string // host:port, dialled by the agent
}

// Manager makes and removes slots. It is safe for concurrent use.
type Manager struct {
	cfg Config

	mu    sync.Mutex
	doors map[string]*doors // id -> open relays
}

// New returns a manager.
func New(cfg Config) *Manager {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Manager{cfg: cfg, doors: map[string]*doors{}}
}

// Slot is the network of one sandbox.
type Slot struct {
	Netns string // path of the namespace
	// Internet tells that it has a way out, and a resolver at the gateway.
	Internet bool
}

// namespaces is where `ip netns` keeps them.
const namespaces = "/run/netns"

func (m *Manager) prefix() string        { return "nimbus-" + m.cfg.Owner + "-" }
func (m *Manager) name(id string) string { return m.prefix() + id }
func (m *Manager) path(id string) string { return filepath.Join(namespaces, m.name(id)) }

// trial is the id of the slot that Check makes.
const trial = "trial"

// Check tells whether slots can be made here, by making one. Its error is a
// *nimbus.Error with a hint.
func (m *Manager) Check(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return nimbus.Errorf(nimbus.CodeUnavailable, "network namespaces and taps need root").WithHint("run the agent as root")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		return nimbus.Errorf(nimbus.CodeUnavailable, "there is no /dev/net/tun").WithHint("load the module: modprobe tun")
	}
	if _, err := nftProgram(); err != nil {
		return nimbus.Errorf(nimbus.CodeUnavailable, "nftables is not installed").WithHint("on Debian: apt-get install nftables")
	}
	err := m.Remove(ctx, trial) // of a check that was cut off
	if err == nil {
		_, err = m.Create(ctx, trial, nimbus.NetworkNone)
	}
	if err = errors.Join(err, m.Remove(context.WithoutCancel(ctx), trial)); err != nil {
		return nimbus.Errorf(nimbus.CodeUnavailable, "a network slot can't be made: %v", err).WithHint("see the agent's log; ip netns add and nft must work")
	}
	return nil
}

// Create makes the slot of a sandbox. What it made before an error, it has
// removed.
func (m *Manager) Create(ctx context.Context, id string, profile nimbus.NetworkProfile) (Slot, error) {
	err := m.create(ctx, id, profile)
	if err != nil {
		return Slot{}, errors.Join(err, m.Remove(context.WithoutCancel(ctx), id))
	}
	return Slot{Netns: m.path(id), Internet: profile == nimbus.NetworkInternet}, nil
}

func (m *Manager) create(ctx context.Context, id string, profile nimbus.NetworkProfile) error {
	ns, err := newNamespace(m.name(id))
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := within(ns, func() error { return setUpInside(ctx, m.ports(), profile) }); err != nil {
		return fmt.Errorf("set up network slot: %w", err)
	}
	if profile == nimbus.NetworkInternet {
		if err := uplink(ctx, ns); err != nil {
			return fmt.Errorf("connect network slot: %w", err)
		}
	}
	return m.openDoors(ns, id, profile == nimbus.NetworkInternet)
}

func (m *Manager) ports() []uint16 {
	ports := make([]uint16, len(m.cfg.Relays))
	for i, r := range m.cfg.Relays {
		ports[i] = r.Port
	}
	return ports
}

// Adopt returns the slot that an earlier process made and opens its relays
// again, unless this process did. fs.ErrNotExist means that there is none.
func (m *Manager) Adopt(id string) (Slot, error) {
	slot := Slot{Netns: m.path(id)}
	if made, err := isNamespace(slot.Netns); err != nil || !made {
		return Slot{}, fmt.Errorf("adopt network slot: %w", errors.Join(err, fs.ErrNotExist))
	}
	ns, err := netns.GetFromPath(slot.Netns)
	if err != nil {
		return Slot{}, fmt.Errorf("adopt network slot: %w", err)
	}
	defer ns.Close()
	if slot.Internet, err = hasLink(ns, upName); err != nil {
		return Slot{}, fmt.Errorf("adopt network slot: %w", err)
	}
	m.mu.Lock()
	_, open := m.doors[id]
	m.mu.Unlock()
	if open {
		return slot, nil
	}
	return slot, m.openDoors(ns, id, slot.Internet)
}

func (m *Manager) openDoors(ns netns.NsHandle, id string, internet bool) error {
	d, err := openDoors(ns, m.cfg.Relays, internet, m.cfg.Log.With("sandbox", id))
	if err != nil {
		return fmt.Errorf("open relays of network slot: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.doors[id] != nil {
		d.close()
		return nil
	}
	m.doors[id] = d
	return nil
}

// Remove removes a slot, with its taps, rules and relays. Removing none is no
// error.
func (m *Manager) Remove(ctx context.Context, id string) error {
	m.mu.Lock()
	d := m.doors[id]
	delete(m.doors, id)
	m.mu.Unlock()
	if d != nil {
		d.close()
	}
	made, err := isNamespace(m.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	switch {
	case err != nil:
	case made:
		err = m.removeNamespace(id)
	default: // a file that a crash left before it became a namespace
		err = os.Remove(m.path(id))
	}
	if err != nil {
		return fmt.Errorf("remove network slot: %w", err)
	}
	return withdraw(ctx)
}

func (m *Manager) removeNamespace(id string) error {
	ns, err := netns.GetFromPath(m.path(id))
	if err != nil {
		return fmt.Errorf("open namespace: %w", err)
	}
	// The links now: the namespace itself ends with its last user.
	err = removeLinks(ns)
	ns.Close()
	return errors.Join(err, netns.DeleteNamed(m.name(id)))
}

func isNamespace(path string) (bool, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return false, fmt.Errorf("look at namespace: %w", err)
	}
	return s.Type == unix.NSFS_MAGIC, nil
}

// List returns the ids of all slots of this owner.
func (m *Manager) List() ([]string, error) {
	entries, err := os.ReadDir(namespaces)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list network slots: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if id, ok := strings.CutPrefix(e.Name(), m.prefix()); ok && id != trial {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// removeLinks removes a slot's devices, and with up0 its peer on the host.
func removeLinks(ns netns.NsHandle) error {
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	for _, name := range []string{upName, TapName} {
		link, err := h.LinkByName(name)
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			continue
		}
		if err == nil {
			err = h.LinkDel(link)
		}
		if err != nil {
			return fmt.Errorf("remove %s: %w", name, err)
		}
	}
	return nil
}

func hasLink(ns netns.NsHandle, name string) (bool, error) {
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return false, fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	_, err = h.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for %s: %w", name, err)
	}
	return true, nil
}
