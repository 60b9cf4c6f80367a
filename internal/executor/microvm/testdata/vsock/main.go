// Command vsock is a job that tries to get at its own guest: over vsock, after it
// has loaded the module that leads a machine's connections to itself.
package main

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	module, err := os.Open("vsock_loopback.ko")
	if err == nil {
		err = unix.FinitModule(int(module.Fd()), "", 0)
	}
	if err != nil {
		fmt.Println("load module:", err)
		os.Exit(1)
	}
	for _, port := range []uint32{1024, 1025} {
		fmt.Printf("%d: %s\n", port, try(port))
	}
}

// try says the first words of HTTP/2 and tells what came back.
func try(port uint32) string {
	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	if err != nil {
		return err.Error()
	}
	defer unix.Close(fd)
	patience := unix.NsecToTimeval(int64(time.Minute))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience); err != nil {
		return err.Error()
	}
	if err := unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_LOCAL, Port: port}); err != nil {
		return "nobody listens"
	}
	// Who has hung up already does not take it.
	_ = unix.Send(fd, []byte(preface), unix.MSG_NOSIGNAL)
	n, err := unix.Read(fd, make([]byte, 100))
	switch {
	case n > 0:
		return "served"
	case err == unix.EAGAIN:
		return "neither served nor hung up"
	}
	return "hung up"
}
