package pages

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls of userfaultfd(2), which x/sys does not have.
const (
	ioctlWake     = 0x8010aa02
	ioctlCopy     = 0xc028aa03
	ioctlZeroPage = 0xc020aa04
)

// Events that a userfaultfd tells.
const (
	eventSize   = 32
	eventFault  = 0x12
	eventRemove = 0x15
)

// event is a message of the kernel.
type event struct {
	kind byte
	// address of a fault; start and end of what was removed.
	address, end uint64
}

func parseEvent(raw []byte) event {
	le := binary.LittleEndian
	if raw[0] == eventFault {
		return event{kind: eventFault, address: le.Uint64(raw[16:])}
	}
	return event{kind: raw[0], address: le.Uint64(raw[8:]), end: le.Uint64(raw[16:])}
}

// uffd is a userfaultfd of another process.
type uffd int

// readEvents returns what has happened, nothing if nothing has.
func (u uffd) readEvents(buf []byte) ([]event, error) {
	n, err := unix.Read(int(u), buf)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read userfaultfd: %w", err)
	}
	var out []event
	for ; n >= eventSize; buf, n = buf[eventSize:], n-eventSize {
		out = append(out, parseEvent(buf))
	}
	return out, nil
}

// copyIn puts data at address of the other process and wakes who waits for it.
// It returns how much was put there before an error.
func (u uffd) copyIn(address uint64, data []byte) (int, error) {
	arg := struct {
		dst, src, length, mode uint64
		copied                 int64
	}{dst: address, src: uint64(uintptr(unsafe.Pointer(&data[0]))), length: uint64(len(data))}
	err := u.ioctl(ioctlCopy, unsafe.Pointer(&arg))
	return int(max(0, arg.copied)), err
}

// zero puts a page of zeros at address.
func (u uffd) zero(address, length uint64) error {
	arg := struct {
		start, length, mode uint64
		zeroed              int64
	}{start: address, length: length}
	return u.ioctl(ioctlZeroPage, unsafe.Pointer(&arg))
}

// wake wakes who waits for a page that is there already.
func (u uffd) wake(address, length uint64) error {
	arg := struct{ start, length uint64 }{address, length}
	return u.ioctl(ioctlWake, unsafe.Pointer(&arg))
}

func (u uffd) ioctl(request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(u), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}
