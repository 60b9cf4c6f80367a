package s3

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// TestIdle: it is the network that may not be silent, not who reads or writes.
func TestIdle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		conn := &idleConn{Conn: ours, idle: time.Minute}
		defer conn.Close()
		go io.Copy(io.Discard, theirs)
		began := time.Now()
		read := make(chan error, 1)
		go func() {
			_, err := conn.Read(make([]byte, 1))
			read <- err
		}()
		// An answer is waited for while a body goes out, for however long.
		for range 10 {
			time.Sleep(50 * time.Second)
			if _, err := conn.Write([]byte("x")); err != nil {
				t.Fatalf("after %v: %v", time.Since(began), err)
			}
		}
		if err := <-read; !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != 560*time.Second {
			t.Errorf("the wait for an answer ended after %v: %v", time.Since(began), err)
		}
		// Who comes to read or write later than that still can.
		time.Sleep(time.Hour)
		go theirs.Write([]byte("y"))
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			t.Errorf("a slow reader: %v", err)
		}
		time.Sleep(time.Hour)
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Errorf("a slow writer: %v", err)
		}
		full, unread := net.Pipe()
		defer unread.Close()
		stuck := &idleConn{Conn: full, idle: time.Minute}
		defer stuck.Close()
		began = time.Now()
		if _, err := stuck.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != time.Minute {
			t.Errorf("a write that nobody takes ended after %v: %v", time.Since(began), err)
		}
	})
}
