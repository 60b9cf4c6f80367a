package cli

import (
	"bytes"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
)

// TestCopiesOfHosts: those of each host that keeps some, and which keep none.
func TestCopiesOfHosts(t *testing.T) {
	t.Parallel()
	views := []hostCopiesView{
		{"host_a", "rack-1", nimbus.HostReady, viewCopies(nimbus.CacheCopies{Hits: 3, Misses: 1, SentBytes: 3 << 30, OriginBytes: 1 << 30, Entries: 2, Bytes: 5 << 20, Limit: 10 << 30, Saved: 6, Evicted: 4, Refused: 9})},
		{"host_b", "rack-2\x1b[2J", nimbus.HostAway, viewCopies(nimbus.CacheCopies{})},
	}
	var out, errs bytes.Buffer
	a := &app{root: &root{}, Streams: Streams{Out: &out, Err: &errs}}
	if err := a.printCopies(views); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(strings.Fields(out.String()), " "); !strings.HasSuffix(got, "rack-1 ready 2 5.0 MiB 10.0 GiB 75 % 3.0 GiB 1.0 GiB 6 4 9") {
		t.Error(got)
	}
	if got := errs.String(); !strings.Contains(got, "at rack-2 [2J: --cache-size") {
		t.Errorf("%q", got)
	}
}

// TestCacheHostsAsks the server which hosts there are.
func TestCacheHostsAsks(t *testing.T) {
	t.Parallel()
	c := startConnected(t)
	if code, _, stderr := c.now(t, "cache", "hosts"); code != ExitOK || !strings.Contains(stderr, "nimbus hosts token") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	ids := c.addHosts(t, "rack-7")
	if code, out, stderr := c.now(t, "cache", "hosts", "--json"); code != ExitOK || !strings.Contains(out, ids[0]) || strings.Contains(out, "copies") {
		t.Errorf("exit code %d: %s %s", code, out, stderr)
	}
}
