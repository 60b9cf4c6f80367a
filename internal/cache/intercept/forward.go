package intercept

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/inside"
)

// dialPublic connects to a name as the host's own resolver has it, at addresses of
// the internet alone: whoever answers for the name opens nothing that the fence of
// a sandbox closes.
func dialPublic(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	name, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("reach GitHub: %w", err)
	}
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", name)
	if err != nil {
		return nil, fmt.Errorf("reach GitHub: %w", err)
	}
	err = nimbus.Errorf(nimbus.CodeUnavailable, "the name %s stands for no public address", name)
	for _, at := range found {
		if inside.Has(at) {
			continue
		}
		conn, failed := (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(at.Unmap().String(), port))
		if failed == nil {
			return conn, nil
		}
		err = errors.Join(err, failed)
	}
	return nil, fmt.Errorf("reach GitHub: %w", err)
}

// pass connects a client that does not trust the door with GitHub itself.
func (d *Door) pass(s *session, client net.Conn, name string) {
	if !s.Reach(name) {
		return
	}
	server, err := d.dial(s.ctx, "tcp", net.JoinHostPort(name, strconv.Itoa(Port)))
	if err != nil {
		d.cfg.Log.WarnContext(s.ctx, "GitHub can't be reached", "name", name, "error", err)
		return
	}
	defer server.Close()
	defer context.AfterFunc(s.ctx, func() { server.Close() })()
	var both sync.WaitGroup
	both.Go(func() { pour(server, client) })
	both.Go(func() { pour(client, server) })
	both.Wait()
}

// pour copies until src ends and hands the end on. A failed side ends both.
func pour(dst, src net.Conn) {
	if _, err := io.Copy(dst, src); err != nil {
		dst.Close()
		src.Close()
		return
	}
	if half, ok := dst.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // broken already: the other direction will tell
	}
}
