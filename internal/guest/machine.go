package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// entropyBytes is how much entropy a Prepare brings.
const entropyBytes = 64

// Requests of ioctl(2) on /dev/random, from linux/random.h.
const (
	rndAddEntropy = 0x40085203
	rndReseedCRNG = 0x5207
)

// prepareMachine makes the machine be who the agent says: clones of one
// snapshot must differ before any byte of a job runs.
func prepareMachine(r *nimbusv1.PrepareRequest) error {
	if now := r.GetNow(); now != nil {
		tv := unix.NsecToTimeval(now.AsTime().UnixNano())
		if err := unix.Settimeofday(&tv); err != nil {
			return fmt.Errorf("set clock: %w", err)
		}
	}
	if err := addEntropy(r.GetEntropy()); err != nil {
		return err
	}
	if name := r.GetHostname(); name != "" {
		if err := unix.Sethostname([]byte(name)); err != nil {
			return fmt.Errorf("set host name: %w", err)
		}
		if err := os.WriteFile("/etc/hostname", []byte(name+"\n"), 0o644); err != nil {
			return fmt.Errorf("write host name: %w", err)
		}
	}
	if id := r.GetMachineId(); id != "" {
		if err := os.WriteFile("/etc/machine-id", []byte(id+"\n"), 0o444); err != nil {
			return fmt.Errorf("write machine id: %w", err)
		}
	}
	if err := trust("/", r.GetCaPem()); err != nil {
		return err
	}
	if n := r.GetNetwork(); n != nil {
		return configureNetwork(n, r.GetHostname())
	}
	return nil
}

func addEntropy(seed []byte) error {
	if len(seed) != entropyBytes {
		return fmt.Errorf("entropy: want %d bytes, got %d", entropyBytes, len(seed))
	}
	f, err := os.OpenFile("/dev/random", os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("open random device: %w", err)
	}
	defer f.Close()
	// struct rand_pool_info {int bits; int bytes; char data[]}
	info := binary.NativeEndian.AppendUint32(nil, entropyBytes*8)
	info = binary.NativeEndian.AppendUint32(info, entropyBytes)
	info = append(info, seed...)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), rndAddEntropy, uintptr(unsafe.Pointer(&info[0]))); errno != 0 {
		return fmt.Errorf("add entropy: %w", errno)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), rndReseedCRNG, 0); errno != 0 {
		return fmt.Errorf("reseed: %w", errno)
	}
	return nil
}

// configureNetwork sets address and route of one device, by ioctl: IPv4 is all
// that a sandbox has, and netlink libraries weigh more than the guest.
func configureNetwork(n *nimbusv1.NetworkConfig, hostname string) error {
	prefix, err := netip.ParsePrefix(n.GetAddress())
	if err != nil || !prefix.Addr().Is4() {
		return fmt.Errorf("network: %q is no IPv4 prefix", n.GetAddress())
	}
	gateway, err := netip.ParseAddr(n.GetGateway())
	if err != nil || !gateway.Is4() {
		return fmt.Errorf("network: %q is no IPv4 address", n.GetGateway())
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	defer unix.Close(fd)
	if err := up(fd, "lo"); err != nil {
		return err
	}
	address, mask := prefix.Addr().As4(), netmask(prefix.Bits())
	for _, set := range []struct {
		request uint
		value   [4]byte
	}{{unix.SIOCSIFADDR, address}, {unix.SIOCSIFNETMASK, mask}} {
		ifr, err := unix.NewIfreq(n.GetDevice())
		if err != nil {
			return fmt.Errorf("network device: %w", err)
		}
		if err := ifr.SetInet4Addr(set.value[:]); err != nil {
			return fmt.Errorf("network address: %w", err)
		}
		if err := unix.IoctlIfreq(fd, set.request, ifr); err != nil {
			return fmt.Errorf("set address of %s: %w", n.GetDevice(), err)
		}
	}
	if err := up(fd, n.GetDevice()); err != nil {
		return err
	}
	if err := defaultRoute(fd, gateway.As4()); err != nil {
		return err
	}
	return writeNames(n, hostname)
}

func netmask(bits int) (m [4]byte) {
	binary.BigEndian.PutUint32(m[:], ^uint32(0)<<(32-bits))
	return m
}

func up(fd int, device string) error {
	ifr, err := unix.NewIfreq(device)
	if err != nil {
		return fmt.Errorf("network device: %w", err)
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("bring up %s: %w", device, err)
	}
	return nil
}

// rtentry is struct rtentry of linux/route.h on 64-bit machines.
type rtentry struct {
	_       uint64
	dst     unix.RawSockaddrInet4
	gateway unix.RawSockaddrInet4
	mask    unix.RawSockaddrInet4
	flags   uint16
	_       int16
	_       uint64
	_       uintptr
	metric  int16
	device  uintptr
	mtu     uint64
	window  uint64
	irtt    uint16
}

func defaultRoute(fd int, gateway [4]byte) error {
	route := rtentry{flags: unix.RTF_UP | unix.RTF_GATEWAY}
	route.dst.Family, route.mask.Family, route.gateway.Family = unix.AF_INET, unix.AF_INET, unix.AF_INET
	route.gateway.Addr = gateway
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCADDRT, uintptr(unsafe.Pointer(&route)))
	if errno != 0 && !errors.Is(errno, unix.EEXIST) {
		return fmt.Errorf("set default route: %w", errno)
	}
	return nil
}

// writeNames tells the image's resolver where to ask, and names it needs not ask.
func writeNames(n *nimbusv1.NetworkConfig, hostname string) error {
	var resolv strings.Builder
	for _, server := range n.GetNameservers() {
		fmt.Fprintf(&resolv, "nameserver %s\n", server)
	}
	hosts := []string{"127.0.0.1 localhost\n"}
	if hostname != "" {
		hosts = append(hosts, "127.0.1.1 "+hostname+"\n")
	}
	for name, address := range n.GetHosts() {
		hosts = append(hosts, address+" "+name+"\n")
	}
	slices.Sort(hosts)
	for path, text := range map[string]string{"/etc/resolv.conf": resolv.String(), "/etc/hosts": strings.Join(hosts, "")} {
		// The image may have a link there that leads nowhere.
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("replace %s: %w", path, err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
	}
	return nil
}
