package pages

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of what the monitor says, which its guest may have taken over.
const (
	maxHandshake     = 64 << 10
	maxRegions       = 64
	handshakeTimeout = 5 * time.Second
)

// Sizes of pages that a machine's memory can be made of.
const (
	smallPage = 4 << 10
	hugePage  = 2 << 20
)

// region is a piece of the machine's memory: in the monitor from Base on, in the
// file from Offset on.
type region struct {
	Base     uint64 `json:"base_host_virt_addr"`
	Size     uint64 `json:"size"`
	Offset   uint64 `json:"offset"`
	PageSize uint64 `json:"page_size"`
}

// receive reads the regions and the userfaultfd that the monitor sends.
func receive(conn *net.UnixConn, uid int, fileSize int64) (regions []region, fd uffd, err error) {
	if err := checkPeer(conn, uid); err != nil {
		return nil, -1, err
	}
	if err := conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return nil, -1, fmt.Errorf("bound handshake: %w", err)
	}
	message, control := make([]byte, maxHandshake), make([]byte, unix.CmsgSpace(4*4))
	n, controls, flags, _, err := conn.ReadMsgUnix(message, control)
	if err != nil {
		return nil, -1, fmt.Errorf("read handshake: %w", err)
	}
	fds := received(control[:controls])
	defer func() {
		for _, other := range fds {
			if uffd(other) != fd {
				unix.Close(other)
			}
		}
	}()
	if flags&(unix.MSG_CTRUNC|unix.MSG_TRUNC) != 0 || n == maxHandshake || len(fds) != 1 {
		return nil, -1, fmt.Errorf("read handshake: %d bytes with %d descriptors instead of a short message with one", n, len(fds))
	}
	if err := json.Unmarshal(message[:n], &regions); err != nil {
		return nil, -1, fmt.Errorf("decode handshake: %w", err)
	}
	if err := checkRegions(regions, uint64(fileSize)); err != nil {
		return nil, -1, fmt.Errorf("handshake: %w", err)
	}
	if err := errors.Join(unix.SetNonblock(fds[0], true), conn.SetDeadline(time.Time{})); err != nil {
		return nil, -1, fmt.Errorf("handshake: %w", err)
	}
	return regions, uffd(fds[0]), nil
}

// received are the descriptors that came with a message.
func received(control []byte) (fds []int) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		if more, err := unix.ParseUnixRights(&m); err == nil {
			fds = append(fds, more...)
		}
	}
	for _, fd := range fds {
		unix.CloseOnExec(fd)
	}
	return fds
}

// checkPeer lets the monitor's user in, and nobody else.
func checkPeer(conn *net.UnixConn, uid int) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("check peer: %w", err)
	}
	var peer *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		peer, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || credErr != nil {
		return fmt.Errorf("check peer: %w", errors.Join(err, credErr))
	}
	if int(peer.Uid) != uid {
		return fmt.Errorf("check peer: it is user %d instead of %d", peer.Uid, uid)
	}
	return nil
}

// checkRegions holds the monitor to memory that makes sense: whole pages of one
// size, each from a place of its own in the file.
func checkRegions(regions []region, fileSize uint64) error {
	if len(regions) == 0 || len(regions) > maxRegions {
		return fmt.Errorf("%d regions of memory", len(regions))
	}
	page := regions[0].PageSize
	if page != smallPage && page != hugePage {
		return fmt.Errorf("pages of %d bytes", page)
	}
	for i, r := range regions {
		switch {
		case r.PageSize != page:
			return errors.New("pages of several sizes")
		case r.Size == 0 || (r.Base|r.Size|r.Offset)%page != 0:
			return fmt.Errorf("region %d is not made of whole pages", i)
		case r.Base+r.Size < r.Base || r.Offset > fileSize || r.Size > fileSize-r.Offset:
			return fmt.Errorf("region %d is not in the memory file of %d bytes", i, fileSize)
		}
		for _, other := range regions[:i] {
			if overlap(r.Base, other.Base, r.Size, other.Size) || overlap(r.Offset, other.Offset, r.Size, other.Size) {
				return fmt.Errorf("region %d is also another", i)
			}
		}
	}
	return nil
}

func overlap(a, b, sizeA, sizeB uint64) bool { return a < b+sizeB && b < a+sizeA }
