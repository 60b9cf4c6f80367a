// Program escape does inside a guest what a job may not, as root, and prints
// what it got for it.
package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: escape bomb | flood | clock | dial TARGETS | look NAMES | forge TARGET")
		os.Exit(2)
	}
	switch os.Args[1] {
	case "bomb":
		bomb()
	case "flood":
		flood()
	case "clock":
		past := syscall.Timeval{Sec: 915148800} // 1999
		fmt.Println("clock:", syscall.Settimeofday(&past), time.Now().UTC().Year())
	case "dial":
		dial(os.Args[2:])
	case "look":
		look(os.Args[2:])
	case "forge":
		forge(os.Args[2])
	}
}

// bomb forks until it may not, or there is nothing left. The children wait to
// be killed.
func bomb() {
	for n := 0; ; n++ {
		pid, _, errno := syscall.RawSyscall(syscall.SYS_FORK, 0, 0, 0)
		if errno != 0 {
			fmt.Println("forked until:", errno)
			os.Exit(9)
		}
		if pid == 0 {
			for {
				syscall.RawSyscall(syscall.SYS_PAUSE, 0, 0, 0)
			}
		}
	}
}

// flood prints as many MiB as it is told, in lines.
func flood() {
	var mib int
	fmt.Sscan(os.Args[2], &mib)
	line := strings.Repeat("flood ", 170) + "123\n" // 1 KiB
	block := []byte(strings.Repeat(line, 64))
	for range mib * (1 << 20) / len(block) {
		if _, err := os.Stdout.Write(block); err != nil {
			os.Exit(1)
		}
	}
}

func dial(targets []string) {
	var all sync.WaitGroup
	for _, target := range targets {
		all.Go(func() {
			if conn, err := net.DialTimeout("tcp", target, 4*time.Second); err == nil {
				fmt.Println("reached", target)
				conn.Close()
			}
		})
	}
	all.Wait()
}

func look(names []string) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	r := net.Resolver{PreferGo: true}
	for _, name := range names {
		if got, err := r.LookupHost(ctx, name+"."); err == nil {
			fmt.Println("found", name, got)
		}
	}
}

// forge sends datagrams to a target in others' names, asks for neighbours over
// IPv6, and tells the gateway's neighbours that it is the gateway.
func forge(target string) {
	to := netip.MustParseAddrPort(target)
	own, gateway := [6]byte{2, 0xfc, 0, 0, 0, 2}, [6]byte{2, 0xfc, 0, 0, 0, 1}
	guest := netip.MustParseAddr("172.16.0.2")
	other := own
	other[5] = 0x99
	for _, frame := range [][]byte{
		datagram(other, gateway, guest, to, "forged MAC"),
		datagram(own, gateway, netip.MustParseAddr("5.5.5.5"), to, "forged address"),
		datagram(own, gateway, netip.MustParseAddr("172.16.0.1"), to, "the gateway's address"),
		claim(own, gateway, netip.MustParseAddr("172.16.0.1")),
		solicit(own),
	} {
		if err := send(frame); err != nil {
			fmt.Println("send:", err)
		}
	}
}

func send(frame []byte) error {
	device, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	fd, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	return syscall.Sendto(fd, frame, 0, &syscall.SockaddrLinklayer{Ifindex: device.Index, Halen: 6})
}

func ethernet(to, from [6]byte, kind uint16, payload []byte) []byte {
	frame := append(append([]byte(nil), to[:]...), from[:]...)
	return append(binary.BigEndian.AppendUint16(frame, kind), payload...)
}

func datagram(from, gateway [6]byte, source netip.Addr, to netip.AddrPort, words string) []byte {
	udp := binary.BigEndian.AppendUint16(nil, 4000)
	udp = binary.BigEndian.AppendUint16(udp, to.Port())
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(words)))
	udp = append(append(udp, 0, 0), words...) // without a checksum, which IPv4 allows
	ip := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, syscall.IPPROTO_UDP, 0, 0}
	binary.BigEndian.PutUint16(ip[2:], uint16(20+len(udp)))
	ip = append(append(ip, source.AsSlice()...), to.Addr().AsSlice()...)
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	return ethernet(gateway, from, syscall.ETH_P_IP, append(ip, udp...))
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// claim is an ARP answer that says that an address is ours.
func claim(own, to [6]byte, address netip.Addr) []byte {
	arp := []byte{0, 1, 8, 0, 6, 4, 0, 2}
	arp = append(append(arp, own[:]...), address.AsSlice()...)
	arp = append(append(arp, to[:]...), 172, 16, 0, 1)
	return ethernet(to, own, syscall.ETH_P_ARP, arp)
}

// solicit asks over IPv6 who has fd00::1.
func solicit(own [6]byte) []byte {
	target := netip.MustParseAddr("fd00::1").As16()
	from, to := netip.MustParseAddr("fe80::2").As16(), netip.MustParseAddr("ff02::1:ff00:1").As16()
	icmp := append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, target[:]...)
	ip := []byte{0x60, 0, 0, 0, 0, byte(len(icmp)), syscall.IPPROTO_ICMPV6, 255}
	ip = append(append(append(ip, from[:]...), to[:]...), icmp...)
	return ethernet([6]byte{0x33, 0x33, 0xff, 0, 0, 1}, own, syscall.ETH_P_IPV6, ip)
}
