package snapshot

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/plainfile"
	"golang.org/x/sys/unix"
)

func inputs() Inputs {
	return Inputs{
		Image: "ghcr.io/a/b:1", Driver: "qemu", Monitor: "QEMU 7.2.22", Host: "6.1.0", CPU: "a processor", CPUFlags: "f0",
		Kernel: "k0", Root: "r0", Initrd: "i0", Parameters: "quiet", CPUs: 1, MemoryMiB: 512, DiskMiB: 64,
	}
}

// fill makes a draft of files that say word.
func fill(t testing.TB, s Store, word string) string {
	t.Helper()
	dir, err := s.Draft()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files() {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(word+name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func publish(t testing.TB, s Store, word string) Snapshot {
	t.Helper()
	made, err := s.Publish(t.Context(), fill(t, s, word), inputs(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func TestOneThatFitsIsFound(t *testing.T) {
	t.Parallel()
	s := Store{Dir: filepath.Join(t.TempDir(), "snapshots")}
	if _, err := s.Open(inputs()); nimbus.ErrorCode(err) != nimbus.CodeNotFound || nimbus.ErrorHint(err) == "" {
		t.Errorf("none: %v", err)
	}
	publish(t, s, "first")
	made := publish(t, s, "second")
	found, err := s.Open(inputs())
	if err != nil || found.Verify(t.Context()) != nil {
		t.Fatalf("%v, %v", err, found.Verify(t.Context()))
	}
	if diff := cmp.Diff(made.Manifest, found.Manifest); diff != "" {
		t.Error(diff)
	}
	if raw, err := os.ReadFile(found.Path(StateFile)); err != nil || string(raw) != "second"+StateFile {
		t.Errorf("%q, %v", raw, err)
	}
	if info, err := os.Stat(found.Path(MemoryFile)); err != nil || info.Mode().Perm() != 0o444 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	entries, err := os.ReadDir(s.Dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("beside it: %v, %v", entries, err)
	}
	list, broken, err := s.List()
	if err != nil || len(broken) > 0 || len(list) != 1 || list[0].Name() != "ghcr.io/a/b:1,1cpu,512MiB" {
		t.Errorf("%v, %v", list, err)
	}
}

// TestEveryInputCounts changes each field of Inputs: the snapshot is refused,
// and the reason names both values.
func TestEveryInputCounts(t *testing.T) {
	t.Parallel()
	made := inputs()
	for what, change := range map[string]func(*Inputs){
		"driver: made with qemu, here is x":            func(i *Inputs) { i.Driver = "x" },
		"monitor: made with QEMU 7.2.22, here is x":    func(i *Inputs) { i.Monitor = "x" },
		"host kernel: made with 6.1.0, here is x":      func(i *Inputs) { i.Host = "x" },
		"processor: made with a processor, here is x":  func(i *Inputs) { i.CPU = "x" },
		"processor flags: made with f0, here is x":     func(i *Inputs) { i.CPUFlags = "x" },
		"guest kernel: made with k0, here is x":        func(i *Inputs) { i.Kernel = "x" },
		"root file system: made with r0, here is x":    func(i *Inputs) { i.Root = "x" },
		"guest and modules: made with i0, here is x":   func(i *Inputs) { i.Initrd = "x" },
		"kernel parameters: made with quiet, here is ": func(i *Inputs) { i.Parameters = "" },
		"image: made with ghcr.io/a/b:1, here is x":    func(i *Inputs) { i.Image = "x" },
		"CPUs: made with 1, here is 2":                 func(i *Inputs) { i.CPUs = 2 },
		"memory MiB: made with 512, here is 513":       func(i *Inputs) { i.MemoryMiB = 513 },
		"disk MiB: made with 64, here is 65":           func(i *Inputs) { i.DiskMiB = 65 },
	} {
		now := inputs()
		change(&now)
		if err := made.Check(now); nimbus.ErrorCode(err) != nimbus.CodeConflict || !strings.Contains(err.Error(), what) {
			t.Errorf("want %q, got %v", what, err)
		}
	}
	if err := made.Check(inputs()); err != nil {
		t.Error(err)
	}
}

// TestTouchedFilesAreRefused does to the files what a monitor in the wrong
// hands could do, and puts back whatever can be put back.
func TestTouchedFilesAreRefused(t *testing.T) {
	t.Parallel()
	for what, touch := range map[string]func(s Snapshot) error{
		"written to and written back": func(s Snapshot) error {
			path := s.Path(MemoryFile)
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			f, err := os.OpenFile(path, os.O_RDWR, 0) // root may
			if err != nil {
				return err
			}
			defer f.Close()
			// The kernel's clock is coarse: what is written within one tick of it can't
			// be told apart.
			var tick unix.Timespec
			for tick.Nano() <= s.Files[MemoryFile].Changed {
				if err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &tick); err != nil {
					return err
				}
			}
			if _, err := f.WriteAt([]byte("X"), 0); err != nil {
				return err
			}
			if _, err := f.WriteAt(raw, 0); err != nil {
				return err
			}
			return os.Chtimes(path, info.ModTime(), info.ModTime())
		},
		"a file removed":    func(s Snapshot) error { return os.Remove(s.Path(DiskFile)) },
		"another manifest":  func(s Snapshot) error { return os.WriteFile(s.Path(manifestFile), []byte("{}"), 0o600) },
		"half the manifest": func(s Snapshot) error { return os.Truncate(s.Path(manifestFile), 100) },
	} {
		s := Store{Dir: t.TempDir()}
		made := publish(t, s, "x")
		if os.Geteuid() != 0 {
			if err := os.Chmod(made.Path(MemoryFile), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := touch(made); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Open(inputs()); nimbus.ErrorCode(err) != nimbus.CodeConflict {
			t.Errorf("%s: %v", what, err)
		}
		publish(t, s, "again")
		if _, err := s.Open(inputs()); err != nil {
			t.Errorf("%s, made again: %v", what, err)
		}
	}
}

func TestVerifyReadsTheFiles(t *testing.T) {
	t.Parallel()
	s := Store{Dir: t.TempDir()}
	made := publish(t, s, "x")
	if err := os.Remove(made.Path(StateFile)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(made.Path(StateFile), []byte("y"+StateFile), 0o600); err != nil { // of the same length
		t.Fatal(err)
	}
	if err := made.Verify(t.Context()); err == nil || !strings.Contains(err.Error(), StateFile+" is not what was saved") {
		t.Errorf("got %v", err)
	}
}

// TestNothingIsWaitedFor: a pipe that nobody writes to, or a device without an
// end, in a snapshot's place is told, and not read; and reading ends with who
// asked for it.
func TestNothingIsWaitedFor(t *testing.T) {
	t.Parallel()
	s := Store{Dir: t.TempDir()}
	made := publish(t, s, "x")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := made.Verify(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	replace := func(file string, with func(path string) error) {
		t.Helper()
		if err := errors.Join(os.Remove(made.Path(file)), with(made.Path(file))); err != nil {
			t.Fatal(err)
		}
	}
	replace(MemoryFile, func(path string) error { return unix.Mkfifo(path, 0o600) })
	if err := made.Verify(t.Context()); nimbus.ErrorCode(err) != nimbus.CodeConflict {
		t.Errorf("a pipe for memory: %v", err)
	}
	replace(MemoryFile, func(path string) error { return os.Symlink("/dev/zero", path) })
	if err := made.Verify(t.Context()); nimbus.ErrorCode(err) != nimbus.CodeConflict {
		t.Errorf("a device for memory: %v", err)
	}
	if _, err := Digest(t.Context(), made.Path(MemoryFile)); !errors.Is(err, plainfile.ErrKind) {
		t.Errorf("digest of a device: %v", err)
	}
}

// TestBrokenOnesAreListed, whatever lies in the place of a manifest.
func TestBrokenOnesAreListed(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(manifest string) error{
		"garbage": func(m string) error { return os.WriteFile(m, []byte("{"), 0o600) },
		"none":    os.Remove,
		"a pipe":  func(m string) error { return errors.Join(os.Remove(m), unix.Mkfifo(m, 0o600)) },
		"endless": func(m string) error { return os.Truncate(m, 1<<40) },
	} {
		s := Store{Dir: t.TempDir()}
		made := publish(t, s, "x")
		if err := os.Chmod(made.Path(manifestFile), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := spoil(made.Path(manifestFile)); err != nil {
			t.Fatal(err)
		}
		found, broken, err := s.List()
		if err != nil || len(found) != 0 || len(broken) != 1 || nimbus.ErrorCode(broken[0].Why) != nimbus.CodeConflict {
			t.Errorf("%s: %v, %v, %v", name, found, broken, err)
		}
	}
}

func TestDigestKnowsHolesAndPlaces(t *testing.T) {
	t.Parallel()
	write := func(size int64, at int64, what string) string {
		f, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte(what), at); err != nil {
			t.Fatal(err)
		}
		digest, err := Digest(t.Context(), f.Name())
		if err != nil {
			t.Fatal(err)
		}
		return digest
	}
	one := write(8<<20, 1<<20, "word")
	if other := write(8<<20, 1<<20, "word"); other != one {
		t.Error("the same content, two digests")
	}
	for what, other := range map[string]string{
		"length": write(9<<20, 1<<20, "word"), "place": write(8<<20, 2<<20, "word"), "content": write(8<<20, 1<<20, "ward"),
	} {
		if other == one {
			t.Errorf("another %s, the same digest", what)
		}
	}
	if write(1<<20, 0, "\x00\x00") != write(1<<20, 1<<19, "\x00") {
		t.Error("zeros that are written differ from holes")
	}
}

// crashVariable makes this test program one that publishes until it is killed.
const crashVariable = "NIMBUS_TEST_SNAPSHOT_CRASH"

// TestKilledWhileItIsMade kills a process that makes snapshots, at whatever
// point that finds it: what is there afterwards is whole.
func TestKilledWhileItIsMade(t *testing.T) {
	if dir := os.Getenv(crashVariable); dir != "" {
		s := Store{Dir: dir}
		for i := 0; ; i++ {
			publish(t, s, strings.Repeat("x", i))
			os.Stdout.WriteString("made\n")
		}
	}
	t.Parallel()
	s := Store{Dir: t.TempDir()}
	for round := range 15 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledWhileItIsMade$")
		cmd.Env = append(os.Environ(), crashVariable+"="+s.Dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for range round%3 + 1 {
			lines.Scan()
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		found, err := s.Open(inputs())
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if err := found.Verify(t.Context()); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	// The drafts are removed once they are old.
	drafts, err := filepath.Glob(filepath.Join(s.Dir, draftPrefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-2 * draftAge)
	for _, dir := range drafts {
		if err := os.Chtimes(dir, old, old); err != nil {
			t.Fatal(err)
		}
	}
	publish(t, s, "last")
	if err := s.Tidy(); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(s.Dir); err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
}
