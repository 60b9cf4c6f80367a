package netslot

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// resolvers are those of the host, as resolv.conf(5) has them. The file is
// looked at again now and then: networks change under a running agent.
type resolvers struct {
	path string

	mu    sync.Mutex
	known []string
	read  time.Time
}

const (
	resolversAge = 10 * time.Second
	maxResolvers = 3 // as the C library has it
)

// list returns the resolvers' addresses, the best first.
func (r *resolvers) list() ([]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known != nil && time.Since(r.read) < resolversAge {
		return r.known, nil
	}
	found, err := nameservers(r.path)
	if err != nil {
		return nil, err
	}
	r.known, r.read = found, time.Now()
	return found, nil
}

// nameservers are the resolvers that a resolv.conf names.
func nameservers(path string) ([]string, error) {
	port := strconv.Itoa(dnsPort)
	own := []string{net.JoinHostPort("127.0.0.1", port)} // where the file names none
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return own, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find the host's resolvers: %w", err)
	}
	defer f.Close()
	var found []string
	lines := bufio.NewScanner(f)
	for lines.Scan() && len(found) < maxResolvers {
		if fields := strings.Fields(lines.Text()); len(fields) >= 2 && fields[0] == "nameserver" {
			found = append(found, net.JoinHostPort(fields[1], port))
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("find the host's resolvers: %w", err)
	}
	if len(found) == 0 {
		return own, nil
	}
	return found, nil
}
