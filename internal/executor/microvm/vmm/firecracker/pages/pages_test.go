package pages_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/firecracker/firecrackertest"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/firecracker/pages"
)

func TestMain(m *testing.M) { firecrackertest.Main(m) }

const pageSize = 4096

// saved is a machine that was saved, and the digest of each of its pages.
func saved(t *testing.T) (target firecrackertest.Target, dir string, digests []string) {
	t.Helper()
	target, dir = firecrackertest.Double(t), t.TempDir()
	firecrackertest.Save(t, target, dir)
	raw, err := os.ReadFile(filepath.Join(dir, "memory"))
	if err != nil || len(raw) != 16<<20 {
		t.Fatal(len(raw), err)
	}
	seen := map[string]bool{}
	for at := 0; at < len(raw); at += pageSize {
		d := fmt.Sprintf("%x", sha256.Sum256(raw[at:at+pageSize]))
		if seen[d] {
			t.Fatal("two pages are alike: one in the other's place would not be seen")
		}
		seen[d] = true
		digests = append(digests, d)
	}
	return target, dir, digests
}

var zeros = fmt.Sprintf("%x", sha256.Sum256(make([]byte, pageSize)))

// served is what the page server says that it did.
func served(t *testing.T, m *firecrackertest.Monitor) map[string]int {
	t.Helper()
	line := regexp.MustCompile(`msg="pages served".*`).FindString(m.Console())
	if line == "" {
		t.Fatalf("the page server said nothing: %s", m.Console())
	}
	out := map[string]int{}
	for _, pair := range strings.Fields(line)[2:] {
		name, value, _ := strings.Cut(pair, "=")
		out[name], _ = strconv.Atoi(value)
	}
	return out
}

// endMonitor ends the monitor itself, as it would by itself, not its page server.
func endMonitor(t *testing.T, m *firecrackertest.Monitor) {
	t.Helper()
	if err := unix.Kill(child(t, m), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case <-m.Ended():
	case <-time.After(time.Minute):
		t.Fatal("the page server goes on without its monitor")
	}
	os.Remove(filepath.Join(m.Dir, "v.sock"))
}

func child(t *testing.T, m *firecrackertest.Monitor) (pid int) {
	t.Helper()
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", m.PID()))
	for _, task := range tasks {
		raw, _ := os.ReadFile(task)
		if n, _ := fmt.Sscan(string(raw), &pid); n == 1 {
			return pid
		}
	}
	t.Fatal("the page server has no monitor")
	return 0
}

// TestEveryPage has a child process fault in each page of its memory by a real
// userfaultfd, in an order of no pattern, and compares what it finds.
func TestEveryPage(t *testing.T) {
	t.Parallel()
	target, dir, digests := saved(t)
	m := firecrackertest.Load(t, target, dir, "")
	guest := m.Guest()
	for i := range digests {
		page := i * 2731 % len(digests) // odd: each page once
		if got := guest.Ask("page %d", page); got != digests[page] {
			t.Fatalf("page %d has other content", page)
		}
	}
	// What a machine writes is its own.
	if guest.Ask("write 5"); guest.Ask("page 5") == digests[5] {
		t.Error("a write was lost")
	}
	raw, err := os.ReadFile(filepath.Join(dir, "memory"))
	if err != nil || fmt.Sprintf("%x", sha256.Sum256(raw[5*pageSize:6*pageSize])) != digests[5] {
		t.Errorf("a write came into the file: %v", err)
	}
	endMonitor(t, m)
	if got := served(t, m); got["faults"] != len(digests) || got["prefetched"] != 0 {
		t.Errorf("got %v, want %d faults", got, len(digests))
	}
}

// TestRemovedPages: what a balloon took back reads as zeros, never as what the
// snapshot had there.
func TestRemovedPages(t *testing.T) {
	t.Parallel()
	target, dir, digests := saved(t)
	m := firecrackertest.Load(t, target, dir, "")
	guest := m.Guest()
	// Some were there before, some never were; the border of the two regions is
	// between them.
	half := len(digests) / 2
	for page := half - 4; page < half; page++ {
		guest.Ask("page %d", page)
	}
	if answer := guest.Ask("drop %d %d", half-8, 16); answer != "<nil>" {
		t.Fatal(answer)
	}
	for page := half - 10; page < half+10; page++ {
		want := digests[page]
		if page >= half-8 && page < half+8 {
			want = zeros
		}
		if got := guest.Ask("page %d", page); got != want {
			t.Errorf("page %d: got %s, want %s", page, got, want)
		}
	}
	endMonitor(t, m)
	if got := served(t, m); got["zeroed"] != 16 || got["removals"] == 0 {
		t.Errorf("got %v", got)
	}
}

// TestWorkingSet: the first machine's pages are there before the second one asks
// for them.
func TestWorkingSet(t *testing.T) {
	t.Parallel()
	target, dir, digests := saved(t)
	set := filepath.Join(dir, "working-set")
	m := firecrackertest.Load(t, target, dir, set)
	guest := m.Guest()
	needed := []int{3000, 7, 8, 9, 2047, 2048, 4095}
	for _, page := range needed {
		guest.Ask("page %d", page)
	}
	endMonitor(t, m)
	if info, err := os.Stat(set); err != nil || info.Size() != int64(16+4*len(needed)) {
		t.Fatalf("got %v, %v", info, err)
	}
	m = firecrackertest.Load(t, target, dir, set)
	guest = m.Guest()
	for page := range digests {
		if got := guest.Ask("page %d", page); got != digests[page] {
			t.Fatalf("page %d has other content", page)
		}
	}
	endMonitor(t, m)
	got := served(t, m)
	if got["prefetched"]+got["faults"] != len(digests) || got["prefetched"] == 0 || got["prefetched"] > len(needed) {
		t.Errorf("got %v of %d pages, %d of them ahead at most", got, len(digests), len(needed))
	}
}

// TestDamagedWorkingSet: it is a hint; a machine runs without.
func TestDamagedWorkingSet(t *testing.T) {
	t.Parallel()
	target, dir, digests := saved(t)
	set := filepath.Join(dir, "working-set")
	if err := os.WriteFile(set, []byte("nimbusws\x00\x00\x00\x00\x00\x00\x00\x00junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := firecrackertest.Load(t, target, dir, set)
	if got := m.Guest().Ask("page 17"); got != digests[17] {
		t.Error("page 17 has other content")
	}
	endMonitor(t, m) // then all that it wrote is there
	if !strings.Contains(m.Console(), "without a working set") {
		t.Errorf("it said %s", m.Console())
	}
}

// TestNonsense: a monitor that says nonsense about its memory is ended, since
// nobody would serve its faults.
func TestNonsense(t *testing.T) {
	t.Parallel()
	target, dir, _ := saved(t)
	const base = `[{"base_host_virt_addr":4096,"size":16777216,"offset":0,"page_size":4096}]`
	for name, c := range map[string]struct {
		message string
		fds     int
		uid     int
		want    string
	}{
		"no regions":        {`[]`, 1, 0, "0 regions"},
		"not JSON":          {`hello`, 1, 0, "decode handshake"},
		"no descriptor":     {base, 0, 0, "descriptors"},
		"two descriptors":   {base, 2, 0, "descriptors"},
		"beyond the file":   {strings.Replace(base, "16777216", "16781312", 1), 1, 0, "not in the memory file"},
		"overflow":          {strings.Replace(base, `:4096,"size"`, `:18446744073709547520,"size"`, 1), 1, 0, "not in the memory file"},
		"half a page":       {strings.Replace(base, "16777216", "2048", 1), 1, 0, "whole pages"},
		"pages of a byte":   {strings.Replace(base, `"page_size":4096`, `"page_size":1`, 1), 1, 0, "pages of 1 bytes"},
		"one region twice":  {"[" + base[1:len(base)-1] + "," + base[1:], 1, 0, "also another"},
		"another's process": {base, 1, 4711, "instead of 4711"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			own := t.TempDir()
			m := firecrackertest.StartBelow(t, target, own, pages.Spec{
				SocketDir: own, SocketName: "p.sock", UID: os.Geteuid() + c.uid, Memory: filepath.Join(dir, "memory"),
			})
			conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: filepath.Join(own, "p.sock"), Net: "unix"})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fds := make([]int, c.fds)
			for i := range fds {
				fds[i] = int(os.Stdin.Fd())
			}
			if _, _, err := conn.WriteMsgUnix([]byte(c.message), unix.UnixRights(fds...), nil); err != nil && !errors.Is(err, unix.EPIPE) {
				t.Fatal(err)
			}
			select {
			case <-m.Ended():
			case <-time.After(time.Minute):
				t.Fatal("the monitor goes on")
			}
			if !strings.Contains(m.Console(), c.want) {
				t.Errorf("it said %q, want %q", m.Console(), c.want)
			}
		})
	}
}
