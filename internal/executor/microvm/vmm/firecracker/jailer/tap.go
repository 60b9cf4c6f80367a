package jailer

import (
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// GiveTap lets a jail's user open a tap, which is root's otherwise. netns is the
// path of the network namespace that it is in, "" for ours.
func GiveTap(netns, name string, uid, gid int) error {
	done := make(chan error, 1)
	go func() {
		if netns != "" {
			// The thread ends with this goroutine, since it is never unlocked.
			runtime.LockOSThread()
		}
		done <- giveTap(netns, name, uid, gid)
	}()
	if err := <-done; err != nil {
		return fmt.Errorf("give tap %s to the jail: %w", name, err)
	}
	return nil
}

func giveTap(netns, name string, uid, gid int) error {
	if netns != "" {
		f, err := os.Open(netns)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
	}
	if _, err := net.InterfaceByName(name); err != nil {
		return err // attaching would make it
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	tun, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open /dev/net/tun: %w", err)
	}
	defer unix.Close(tun)
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(tun, unix.TUNSETIFF, request); err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	if err := unix.IoctlSetInt(tun, unix.TUNSETOWNER, uid); err != nil {
		return fmt.Errorf("set owner: %w", err)
	}
	if err := unix.IoctlSetInt(tun, unix.TUNSETGROUP, gid); err != nil {
		return fmt.Errorf("set group: %w", err)
	}
	return nil
}
