package e2e

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/nimbus-ci/nimbus/test/e2e/planted"
)

// TestNoSecretLeaks has a job write 500 secrets in every form, kills the whole of
// Nimbus in the middle of one, and looks for traces of them in all that it leaves:
// its files, compressed or not, the log as it was streamed and as it is read, and
// what it said itself when it was killed by a signal that has it dump its state.
func TestNoSecretLeaks(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	job := filepath.Join(t.TempDir(), "job")
	if out, err := exec.Command("go", "build", "-o", job, "./planted/job").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	const seed = "a seed that is no secret"
	var traces [][]byte
	for i := range planted.Count {
		for _, trace := range planted.Traces(planted.Secret(seed, i)) {
			traces = append(traces, []byte(trace))
		}
	}
	find := newFinder(traces)

	first := m.up(t)
	proceed := filepath.Join(t.TempDir(), "go")
	id := strings.TrimSpace(m.must(t, "run", "--detach", "--no-files", "--", job, seed, proceed))
	follow := m.start(t, t.TempDir(), "logs", "-f", id)
	await(t, 2*time.Minute, "half of them were written", func() bool { return strings.Contains(follow.stdout.String(), "\n248.") })
	time.Sleep(2 * time.Second) // what was begun is on the disk too
	if n := find.files(t, filepath.Join(m.data, "agent")); n == 0 {
		t.Fatal("the agent keeps no files: the check below would prove nothing")
	}
	first.signal(syscall.SIGQUIT) // a dump of all that it was doing
	if !strings.Contains(first.stderr.String(), "goroutine ") {
		t.Error("it has dumped nothing")
	}
	find.files(t, m.data)

	second := m.up(t)
	if err := os.WriteFile(proceed, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if code := follow.wait(120 * time.Second); code != 0 {
		t.Errorf("logs -f ended with %d: %s", code, follow.stderr.String())
	}
	stdout, stderr, code := m.nimbus(t, t.TempDir(), "logs", id)
	if code != 0 {
		t.Fatalf("logs ended with %d: %s", code, stderr)
	}
	read := stdout + stderr
	for where, text := range map[string]string{
		"the stream": follow.stdout.String() + follow.stderr.String(), "the log": read,
		"the dump": first.stderr.String() + first.stdout.String(), "what the second says": second.stderr.String() + second.stdout.String(),
	} {
		find.in(t, where, []byte(text))
	}
	if !strings.Contains(read, "planted all\n") || strings.Count(read, "***") < planted.Count*12 || !strings.Contains(read, "waits with ***\n") {
		t.Errorf("the log has %d bytes and %d hidden places", len(read), strings.Count(read, "***"))
	}
	if code := second.signal(syscall.SIGTERM); code != 0 {
		t.Errorf("up ended with %d", code)
	}
	find.files(t, m.data)
}

// finder looks for traces.
type finder struct {
	traces [][]byte
	starts map[[8]byte][]int // by how they begin: there are thousands
	zstd   *zstd.Decoder
}

func newFinder(traces [][]byte) *finder {
	f := &finder{traces: traces, starts: map[[8]byte][]int{}}
	for i, trace := range traces {
		f.starts[[8]byte(trace)] = append(f.starts[[8]byte(trace)], i)
	}
	f.zstd, _ = zstd.NewReader(nil) // fails on options alone
	return f
}

// in reports traces in what somebody left.
func (f *finder) in(t *testing.T, where string, content []byte) {
	t.Helper()
	found := 0
	for i := 0; i+8 <= len(content); i++ {
		for _, n := range f.starts[[8]byte(content[i:])] {
			if bytes.HasPrefix(content[i:], f.traces[n]) {
				found++
				if found < 5 {
					t.Errorf("%s shows %q", where, f.traces[n])
				}
			}
		}
	}
	if found > 0 {
		t.Errorf("%s has %d traces", where, found)
	}
}

// files looks through all files of a folder, and what is compressed in them.
func (f *finder) files(t *testing.T, dir string) (files int) {
	t.Helper()
	magic := []byte{0x28, 0xb5, 0x2f, 0xfd}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil //nolint:nilerr // it goes while it is looked through
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil //nolint:nilerr // the same
		}
		files++
		f.in(t, path, raw)
		for at := bytes.Index(raw, magic); at >= 0; {
			frame := raw[at:]
			if next := bytes.Index(frame[4:], magic); next >= 0 {
				frame, at = frame[:next+4], at+4+next
			} else {
				at = -1
			}
			// What follows a frame is no part of it: an error then, after its text.
			text, _ := f.zstd.DecodeAll(frame, nil)
			f.in(t, path+", unpacked", text)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
