// Package netslot gives each sandbox a network of its own: a namespace with the
// device at which a microVM or a container is, a fence of nftables around it,
// and relays to the few ports that the gateway offers.
//
//	 guest ── tap0 ┬ relays: 172.16.0.1:PORT ─▶ agent's process ─▶ target
//	172.16.0.2/30  ├ names: 172.16.0.1:53 ─▶ dnsguard ─▶ the host's resolvers
//	               └ fence ─ up0 ══ nimbusN ─ host's table ─ masquerade ─▶ public addresses
//	└──────── namespace of the slot ────────┘ └──────────── host ────────────┘
//
// A microVM's monitor holds the tap. For a container tap0 is one end of a pair
// whose other end, eth0, Connect moves into the container's namespace.
//
// Names and addresses inside are the same in every slot. The profile "none" has
// the relays and nothing else: no right half, no names. "internet" has every
// public address; "names" has the addresses that the guard has answered for the
// names on its list. Relays and guard live in this process: they end with it,
// and Adopt opens them again. What was refused is counted in the fence, which
// lives as long as the slot.
package netslot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot/dnsguard"
)

// What every slot has inside.
const (
	TapName  = "tap0"
	pairName = "eth0" // the container's end, where there is one
	GuestMAC = "02:fc:00:00:00:02"
	tapMAC   = "02:fc:00:00:00:01"
	upName   = "up0"
)

// GatewayName is how guests call the gateway.
const GatewayName = "gateway.nimbus.internal"

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
	// Pairs has slots made for containers, not for microVMs.
	Pairs bool
	// Relays are what every guest can reach, whatever its profile.
	Relays []Relay
	// State is the folder of what is kept of slots for the process that adopts
	// them. Default /run/nimbus-slots.
	State string
	// Resolvers are asked for guests, host:port, the first that answers. Default:
	// those of the host.
	Resolvers []string
	Log       *slog.Logger // default none
}

// Relay makes a TCP address that the host can reach a port of the gateway.
type Relay struct {
	Port   uint16
	Target string // host:port, dialled by the agent
	// Serve takes the connections instead, and is told of which slot they are: by the
	// listener that they came in by, which no other slot's guest can reach. It
	// returns once a connection has ended, which is closed with the slot.
	Serve func(id string, guest net.Conn)
}

// Manager makes and removes slots. It is safe for concurrent use.
type Manager struct {
	cfg       Config
	resolvers *resolvers

	mu    sync.Mutex
	doors map[string]*doors // id -> open relays
}

// New returns a manager.
func New(cfg Config) *Manager {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.State = cmp.Or(cfg.State, defaultState)
	return &Manager{cfg: cfg, resolvers: &resolvers{path: "/etc/resolv.conf"}, doors: map[string]*doors{}}
}

// Slot is the network of one sandbox.
type Slot struct {
	Netns string // path of the namespace
	// Resolver is where the guest may ask for names; the zero value where it may
	// not.
	Resolver netip.Addr
}

func (m *Manager) slot(id string, r Reach) Slot {
	s := Slot{Netns: m.path(id)}
	if wayOut(r.Profile) {
		s.Resolver = Gateway
	}
	return s
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
	if _, err := os.Stat("/dev/net/tun"); err != nil && !m.cfg.Pairs {
		return nimbus.Errorf(nimbus.CodeUnavailable, "there is no /dev/net/tun").WithHint("load the module: modprobe tun")
	}
	if _, err := nftProgram(); err != nil {
		return nimbus.Errorf(nimbus.CodeUnavailable, "nftables is not installed").WithHint("on Debian: apt-get install nftables")
	}
	err := m.Remove(ctx, trial) // of a check that was cut off
	if err == nil {
		_, err = m.Create(ctx, trial, Reach{Profile: nimbus.NetworkNone})
	}
	if err = errors.Join(err, m.Remove(context.WithoutCancel(ctx), trial)); err != nil {
		return nimbus.Errorf(nimbus.CodeUnavailable, "a network slot can't be made: %v", err).WithHint("see the agent's log; ip netns add and nft must work")
	}
	return nil
}

// Create makes the slot of a sandbox. What it made before an error, it has
// removed.
func (m *Manager) Create(ctx context.Context, id string, r Reach) (Slot, error) {
	err := m.create(ctx, id, r)
	if err != nil {
		return Slot{}, errors.Join(err, m.Remove(context.WithoutCancel(ctx), id))
	}
	return m.slot(id, r), nil
}

func (m *Manager) create(ctx context.Context, id string, r Reach) error {
	if !slices.Contains(nimbus.NetworkProfiles(), r.Profile) {
		return nimbus.Errorf(nimbus.CodeUnsupported, "this host knows no network profile %q", r.Profile)
	}
	if err := m.keepReach(id, r); err != nil { // before there is a namespace that it tells of
		return err
	}
	ns, err := newNamespace(m.name(id))
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := within(ns, func() error { return m.setUpInside(ctx, r.Profile) }); err != nil {
		return fmt.Errorf("set up network slot: %w", err)
	}
	if wayOut(r.Profile) {
		if err := uplink(ctx, ns); err != nil {
			return fmt.Errorf("connect network slot: %w", err)
		}
	}
	return m.openDoors(ns, id, r)
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
	if made, err := isNamespace(m.path(id)); err != nil || !made {
		return Slot{}, fmt.Errorf("adopt network slot: %w", errors.Join(err, fs.ErrNotExist))
	}
	ns, err := netns.GetFromPath(m.path(id))
	if err != nil {
		return Slot{}, fmt.Errorf("adopt network slot: %w", err)
	}
	defer ns.Close()
	r, err := m.reachOf(id, ns)
	if err != nil {
		return Slot{}, fmt.Errorf("adopt network slot: %w", err)
	}
	m.mu.Lock()
	_, open := m.doors[id]
	m.mu.Unlock()
	if open {
		return m.slot(id, r), nil
	}
	return m.slot(id, r), m.openDoors(ns, id, r)
}

// guard makes the resolver of a slot, which lets through what it answers where
// the fence does not already.
func (m *Manager) guard(id string, r Reach, log *slog.Logger) *dnsguard.Guard {
	if !wayOut(r.Profile) {
		return nil
	}
	// A guest has it in its own file of names; what runs below it asks.
	own := map[string]netip.Addr{GatewayName: Gateway}
	cfg := dnsguard.Config{Own: own, Upstream: m.resolvers.list, Public: public, Log: log}
	if len(m.cfg.Resolvers) > 0 {
		cfg.Upstream = func() ([]string, error) { return m.cfg.Resolvers, nil }
	}
	if r.Profile == nimbus.NetworkNames {
		cfg.Names = &r.Names
		cfg.Open = func(addresses []netip.Addr) error {
			ns, err := netns.GetFromPath(m.path(id))
			if err != nil {
				return fmt.Errorf("open namespace: %w", err)
			}
			defer ns.Close()
			return letThrough(ns, addresses)
		}
	}
	return dnsguard.New(cfg)
}

// Refused is what the guest of a slot tried and was refused so far, the most
// frequent first within its kind. Names are known since this process opened the
// slot's doors, all else since there is the slot. fs.ErrNotExist means that
// there is none.
func (m *Manager) Refused(id string) ([]executor.Refusal, error) {
	if made, err := isNamespace(m.path(id)); err != nil || !made {
		return nil, fmt.Errorf("look what was refused: %w", errors.Join(err, fs.ErrNotExist))
	}
	ns, err := netns.GetFromPath(m.path(id))
	if err != nil {
		return nil, fmt.Errorf("look what was refused: %w", err)
	}
	defer ns.Close()
	out, err := tried(ns)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	d := m.doors[id]
	m.mu.Unlock()
	if d == nil || d.guard == nil {
		return out, nil
	}
	for _, name := range d.guard.Refused() {
		out = append(out, executor.Refusal{Kind: executor.RefusedName, Target: name.Name, Why: name.Why, Count: name.Count})
	}
	return out, nil
}

func (m *Manager) openDoors(ns netns.NsHandle, id string, r Reach) error {
	log := m.cfg.Log.With("sandbox", id)
	d, err := openDoors(ns, id, m.cfg.Relays, m.guard(id, r, log), log)
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
		return m.forgetReach(id)
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
	return errors.Join(m.forgetReach(id), withdraw(ctx))
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

// Standing tells whether a slot that this process made is still there.
func (m *Manager) Standing(id string) error {
	made, err := isNamespace(m.path(id))
	if err == nil && !made {
		err = fmt.Errorf("%s is no namespace", m.path(id))
	}
	return err
}

func isNamespace(path string) (bool, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return false, fmt.Errorf("look at namespace: %w", err)
	}
	return s.Type == unix.NSFS_MAGIC, nil
}

// List returns the ids of all slots of this owner, also of what a crash has left
// of one.
func (m *Manager) List() ([]string, error) {
	var ids []string
	for _, dir := range []string{namespaces, m.cfg.State} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("list network slots: %w", err)
		}
		for _, e := range entries {
			id, ok := strings.CutPrefix(strings.TrimSuffix(e.Name(), reachSuffix), m.prefix())
			if ok && id != trial {
				ids = append(ids, id)
			}
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// Tidy takes back what belongs to no slot: the host's rules, where the last
// slot's end was cut off before they went.
func (m *Manager) Tidy(ctx context.Context) error {
	if _, err := nftProgram(); err != nil || os.Geteuid() != 0 {
		return nil //nolint:nilerr // nothing was ever made here
	}
	return withdraw(ctx)
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
		// One that has gone since it was found is what was wanted: a device goes
		// with its other end, too, whose namespace the kernel takes down later
		// than it says.
		if err != nil && !errors.Is(err, unix.ENODEV) {
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
