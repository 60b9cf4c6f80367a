package netslot

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/google/nftables"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot/dnsguard"
)

// Rules are loaded as text, which people can read, once per slot. What changes
// with each name that a guest asks for, and what is read at its end, goes over
// netlink: a program for each would cost a hundred times as much, at the
// guest's choice.

// openTime is for how long an answer of the guard lets its addresses through:
// while a guest may keep the answer, and as long again for who is slow to use it.
const openTime = 2 * dnsguard.MaxTTL

var slotTable = &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}

// letThrough opens a slot's fence for addresses.
func letThrough(ns netns.NsHandle, addresses []netip.Addr) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(ns)))
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	set := &nftables.Set{Table: slotTable, Name: namedSet, KeyType: nftables.TypeIPAddr, HasTimeout: true}
	elements := make([]nftables.SetElement, len(addresses))
	for i, a := range addresses {
		elements[i] = nftables.SetElement{Key: a.AsSlice(), Timeout: openTime}
	}
	// Adding what is there does not move its end. Taken out and put in again in
	// one transaction it has never been away.
	for _, change := range []func(*nftables.Set, []nftables.SetElement) error{c.SetAddElements, c.SetDeleteElements, c.SetAddElements} {
		if err := change(set, elements); err != nil {
			return fmt.Errorf("change the set of addresses: %w", err)
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("change the set of addresses: %w", err)
	}
	return nil
}

// tried reads what a slot's fence refused so far, the most frequent first.
func tried(ns netns.NsHandle) ([]executor.Refusal, error) {
	c, err := nftables.New(nftables.WithNetNSFd(int(ns)))
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	elements, err := c.GetSetElements(&nftables.Set{Table: slotTable, Name: refusedSet})
	if err != nil {
		return nil, fmt.Errorf("read what was refused: %w", err)
	}
	var out []executor.Refusal
	var listed uint64
	for _, e := range elements {
		r, ok := refusalOf(e)
		if ok && r.Count > 0 {
			out = append(out, r)
			listed += r.Count
		}
	}
	slices.SortFunc(out, func(a, b executor.Refusal) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Target, b.Target))
	})
	more, err := counted(c)
	if err != nil {
		return nil, err
	}
	if all := more[executor.RefusedOther]; all > listed { // of other protocols, or beyond what the set holds
		more[executor.RefusedOther] = all - listed
	} else {
		delete(more, executor.RefusedOther)
	}
	for _, kind := range []executor.RefusalKind{executor.RefusedOther, executor.RefusedForged, executor.RefusedIPv6, executor.RefusedFlood} {
		if n := more[kind]; n > 0 {
			out = append(out, executor.Refusal{Kind: kind, Count: n})
		}
	}
	return out, nil
}

// Where the parts of an element's key lie: each takes whole words.
const (
	keyProtocol = 4
	keyPort     = 8
	keyBytes    = 12
)

func refusalOf(e nftables.SetElement) (executor.Refusal, bool) {
	if len(e.Key) < keyBytes || e.Counter == nil {
		return executor.Refusal{}, false
	}
	address, port := net.IP(e.Key[:keyProtocol]).String(), binary.BigEndian.Uint16(e.Key[keyPort:])
	r := executor.Refusal{Kind: executor.RefusedTCP, Target: net.JoinHostPort(address, strconv.Itoa(int(port))), Count: e.Counter.Packets}
	if e.Key[keyProtocol] == unix.IPPROTO_UDP {
		r.Kind = executor.RefusedUDP
	}
	return r, true
}

// counted reads the counters of both tables.
func counted(c *nftables.Conn) (map[executor.RefusalKind]uint64, error) {
	kinds := map[string]executor.RefusalKind{
		refusals: executor.RefusedOther, floods: executor.RefusedFlood, forgeries: executor.RefusedForged, versionSixes: executor.RefusedIPv6,
	}
	counts := map[executor.RefusalKind]uint64{}
	for _, family := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyNetdev} {
		objects, err := c.GetObjects(&nftables.Table{Name: tableName, Family: family})
		if err != nil {
			return nil, fmt.Errorf("read counters: %w", err)
		}
		for _, o := range objects {
			if counter, ok := o.(*nftables.CounterObj); ok {
				counts[kinds[counter.Name]] += counter.Packets
			}
		}
	}
	return counts, nil
}
