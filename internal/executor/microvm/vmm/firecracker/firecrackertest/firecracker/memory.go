package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const pageSize = 4096

// memory is the guest's.
type memory struct {
	raw  []byte
	uffd int      // -1: the kernel serves its faults
	told net.Conn // to who serves them: it stays open as long as the process lives
}

func newMemory(size int) (*memory, error) {
	raw, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	return &memory{raw: raw, uffd: -1}, err
}

// mapMemory maps a file so that writes stay in this process.
func mapMemory(size int, path string) (*memory, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, refuse("Error creating guest memory from file: Failed to load guest memory: %v", osError(err))
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Size() != int64(size) {
		return nil, refuse("Error creating guest memory from file: the file is not of %d bytes", size)
	}
	raw, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	return &memory{raw: raw, uffd: -1}, err
}

// fill writes into each page something that no other page has.
func (m *memory) fill() {
	for at := 0; at < len(m.raw); at += pageSize {
		binary.LittleEndian.PutUint64(m.raw[at:], uint64(at)*0x9e3779b97f4a7c15+1)
		binary.LittleEndian.PutUint64(m.raw[at+pageSize-8:], uint64(at)+2)
	}
}

func (m *memory) save(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(m.raw)
	return err
}

func (m *memory) page(number int) ([]byte, bool) {
	if number < 0 || (number+1)*pageSize > len(m.raw) {
		return nil, false
	}
	return m.raw[number*pageSize : (number+1)*pageSize], true
}

// drop gives pages back to the host, as a balloon does.
func (m *memory) drop(first, count int) error {
	return unix.Madvise(m.raw[first*pageSize:(first+count)*pageSize], unix.MADV_DONTNEED)
}

// The calls of userfaultfd(2) that whoever registers memory makes.
const (
	uffdAPI          = 0xc018aa3f
	uffdRegister     = 0xc020aa00
	uffdNew          = 0xaa00
	uffdEventRemove  = 1 << 3
	registerMissing  = 1
	uffdAPIVersion   = 0xaa
	regionsOfMachine = 2
)

// faultingMemory makes memory whose pages a server brings in, and tells the
// server on the socket at path. It comes in two regions, as that of a machine
// does that is larger than the hole below 4 GiB.
func faultingMemory(size int, path string) (*memory, error) {
	const prefix = "Error creating guest memory from uffd: "
	m, err := newMemory(size)
	if err != nil {
		return nil, err
	}
	if m.uffd, err = newUffd(); err != nil {
		return nil, refuse(prefix+"Failed to create userfaultfd object: %v", err)
	}
	base := uint64(uintptr(unsafe.Pointer(&m.raw[0])))
	register := struct{ start, length, mode, ioctls uint64 }{base, uint64(size), registerMissing, 0}
	if err := ioctl(m.uffd, uffdRegister, unsafe.Pointer(&register)); err != nil {
		return nil, refuse(prefix+"Failed to register memory address range with the userfaultfd object: %v", err)
	}
	half := uint64(size) / regionsOfMachine
	var regions []map[string]uint64
	for i := range uint64(regionsOfMachine) {
		regions = append(regions, map[string]uint64{
			"base_host_virt_addr": base + i*half, "size": half, "offset": i * half, "page_size": pageSize, "page_size_kib": pageSize,
		})
	}
	raw, err := json.Marshal(regions)
	if err != nil {
		return nil, err
	}
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, refuse(prefix+"Failed to connect to UDS Unix stream: %v", osError(err))
	}
	m.told = conn
	if _, _, err := conn.WriteMsgUnix(raw, unix.UnixRights(m.uffd), nil); err != nil {
		return nil, refuse(prefix+"Failed to sends file descriptor: %v", err)
	}
	return m, nil
}

// newUffd makes a userfaultfd by the system call or, where that is for root
// alone, by the device.
func newUffd() (int, error) {
	const flags = unix.O_CLOEXEC | unix.O_NONBLOCK
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, flags, 0, 0)
	if errno != 0 {
		device, err := os.OpenFile("/dev/userfaultfd", os.O_RDWR, 0)
		if err != nil {
			return -1, fmt.Errorf("userfaultfd(2): %w; %w", errno, err)
		}
		defer device.Close()
		if fd, _, errno = unix.Syscall(unix.SYS_IOCTL, device.Fd(), uffdNew, flags); errno != 0 {
			return -1, errno
		}
	}
	api := struct{ api, features, ioctls uint64 }{uffdAPIVersion, uffdEventRemove, 0}
	return int(fd), ioctl(int(fd), uffdAPI, unsafe.Pointer(&api))
}

func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}
