package rootfs

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"golang.org/x/sys/unix"
)

// childVariable makes this test's program a converter that goes on until it is
// killed.
const childVariable = "NIMBUS_TEST_CONVERT_IN"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childVariable); dir != "" {
		os.Exit(convertForEver(dir))
	}
	os.Exit(m.Run())
}

func convertForEver(dir string) int {
	s := Open(dir)
	for n := 0; ; n++ {
		d, err := s.Draft(context.Background())
		if err != nil {
			return 1
		}
		content := bytes.Repeat([]byte{byte(n)}, 1<<20)
		if err := os.WriteFile(d.Path(), content, 0o600); err != nil {
			return 1
		}
		root, err := d.Publish(context.Background(), Manifest{Source: "child", SourceDigest: "sha256:" + strings.Repeat("1", 64), ConvertedAt: time.Now().UTC()}, Provenance{})
		if err == nil {
			err = s.SetRef(context.Background(), Ref{Name: "child", Digest: root.Digest})
		}
		if err != nil {
			return 1
		}
		if _, err := s.Collect(context.Background(), Bounds{Bytes: 3 << 20}, false); err != nil {
			return 1
		}
		os.Stdout.WriteString(".")
	}
}

// TestKilledAtRandom kills a process that converts at random moments: what is
// listed is whole, and the next store removes what it left.
func TestKilledAtRandom(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const kills = 25
	for range kills {
		cmd := exec.CommandContext(t.Context(), self)
		cmd.Env = append(os.Environ(), childVariable+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 1)); err != nil { // one is done, the next has begun
			t.Fatal(err)
		}
		time.Sleep(rand.N(8 * time.Millisecond)) // a random moment is the test
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed
		after := Open(dir)
		roots, broken := after.List()
		if len(broken) > 0 {
			t.Fatalf("half an image is listed: %v", broken)
		}
		for _, r := range roots {
			if err := after.Verify(r); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := Open(dir).Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || len(left) > 0 {
		t.Errorf("left after the sweep: %q, %v", left, err)
	}
}

// TestSweepSparesWhatIsBeingMade.
func TestSweepSparesWhatIsBeingMade(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d, err := Open(dir).Draft(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := Open(dir).Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Dir(d.Path())); err != nil {
		t.Errorf("a draft in the making was swept: %v", err)
	}
	d.Discard()
}

// TestOnlyWhatIsSignedIsUsed changes each part of a root.
func TestOnlyWhatIsSignedIsUsed(t *testing.T) {
	t.Parallel()
	edit := func(file string, change func([]byte) []byte) func(*testing.T, Root) {
		return func(t *testing.T, r Root) {
			path := filepath.Join(r.dir, file)
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, change(raw), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
	}
	swap := func(old, now string) func([]byte) []byte {
		return func(raw []byte) []byte { return bytes.Replace(raw, []byte(old), []byte(now), 1) }
	}
	for name, change := range map[string]func(*testing.T, Root){
		"a byte of the file":      edit(rootFile, func(raw []byte) []byte { raw[3] ^= 1; return raw }),
		"a shorter file":          edit(rootFile, func(raw []byte) []byte { return raw[:len(raw)-1] }),
		"the source":              edit(manifestFile, swap("good", "evil")),
		"the environment":         edit(manifestFile, swap("A=1", "A=2")),
		"another digest":          edit(manifestFile, swap("sha256:", "sha256:0")),
		"the payload":             edit(attestationFile, swap(`"payload": "e`, `"payload": "f`)),
		"the signature":           edit(attestationFile, swap(`"sig": "`, `"sig": "AAAA`)),
		"no attestation":          func(t *testing.T, r Root) { _ = os.Remove(filepath.Join(r.dir, attestationFile)) },
		"a key that is not known": edit("../"+keysDir+"/host.key", func([]byte) []byte { return nil }),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := Open(t.TempDir())
			d, err := s.Draft(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(d.Path(), []byte("content"), 0o600); err != nil {
				t.Fatal(err)
			}
			r, err := d.Publish(t.Context(), Manifest{Source: "good", Env: []string{"A=1"}, SourceDigest: "sha256:" + strings.Repeat("2", 64), ConvertedAt: time.Now().UTC()}, Provenance{Builder: "here"})
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Check(r); err != nil {
				t.Fatal(err)
			}
			change(t, r)
			if name == "a key that is not known" {
				keys, _ := filepath.Glob(filepath.Join(s.dir, keysDir, "*"+keySuffix))
				for _, k := range keys {
					_ = os.Remove(k)
				}
			}
			now, err := s.Find(r.Digest)
			if err == nil {
				err = s.Check(now)
			}
			if nimbus.ErrorCode(err) != nimbus.CodeInternal || nimbus.ErrorHint(err) == "" {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestAttestationIsWhatOthersRead: an in-toto statement of SLSA's provenance.
func TestAttestationIsWhatOthersRead(t *testing.T) {
	t.Parallel()
	s := Open(t.TempDir())
	if err := convert(t, s, "n", "docker.io/library/python:3.12"); err != nil {
		t.Fatal(err)
	}
	_, r, err := s.Ref("n")
	if err != nil {
		t.Fatal(err)
	}
	var e envelope
	if err := readJSON(filepath.Join(r.dir, attestationFile), &e); err != nil {
		t.Fatal(err)
	}
	keys, err := s.trusted()
	if err != nil || len(keys) != 1 || e.Signatures[0].KeyID != keyID(keys[0]) {
		t.Fatalf("%v, %v", keys, err)
	}
	if info, err := os.Stat(filepath.Join(s.dir, keysDir, signingKey)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the private key: %v, %v", info, err)
	}
	if got := string(preAuth([]byte("hi"))); got != "DSSEv1 28 application/vnd.in-toto+json 2 hi" {
		t.Errorf("signed is %q", got)
	}
	payload, err := base64.StdEncoding.DecodeString(e.Payload)
	if err != nil {
		t.Fatal(err)
	}
	var st statement
	if err := json.Unmarshal(payload, &st); err != nil || st.Type != "https://in-toto.io/Statement/v1" || st.PredicateType != "https://slsa.dev/provenance/v1" ||
		"sha256:"+st.Subject[0].Digest["sha256"] != r.Digest || st.Predicate.RunDetails.Builder.ID != "test" {
		t.Errorf("%v: %s", err, payload)
	}
	m, err := attested(e, keys)
	if err != nil || m.Source != "docker.io/library/python:3.12" || m.Digest != r.Digest {
		t.Errorf("%+v, %v", m, err)
	}
}

// TestChoose is the decision what to remove.
func TestChoose(t *testing.T) {
	t.Parallel()
	now := time.Unix(1e9, 0)
	root := func(digest string, size int64, ago time.Duration) Root {
		return Root{Manifest: Manifest{Digest: digest, Size: size}, UsedAt: now.Add(-ago)}
	}
	roots := []Root{root("new", 10, time.Hour), root("old", 10, 3*time.Hour), root("mid", 10, 2*time.Hour)}
	for name, c := range map[string]struct {
		bounds Bounds
		used   map[string]bool
		want   []string
	}{
		"no bounds":             {Bounds{Now: now}, nil, nil},
		"enough room":           {Bounds{Bytes: 30, Now: now}, nil, nil},
		"the oldest first":      {Bounds{Bytes: 20, Now: now}, nil, []string{"old"}},
		"never one in use":      {Bounds{Bytes: 5, Now: now}, map[string]bool{"old": true}, []string{"mid", "new"}},
		"so much room":          {Bounds{Free: 11, Now: now}, nil, []string{"old", "mid"}},
		"room, but not of used": {Bounds{Free: 100, Now: now}, map[string]bool{"mid": true}, []string{"old", "new"}},
		"unused for long":       {Bounds{Unused: 90 * time.Minute, Now: now}, nil, []string{"old", "mid"}},
		"unused, but it is now": {Bounds{Unused: 90 * time.Minute, Now: now}, map[string]bool{"mid": true, "old": true}, nil},
	} {
		var got []string
		for _, r := range choose(roots, c.used, c.bounds) {
			got = append(got, r.Digest)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	// What no registry has can't be had again.
	roots[1].Source, roots[2].Source = "oci:/srv/layout", "archive:/srv/saved.tar"
	for local, want := range map[bool][]string{false: {"new"}, true: {"old", "mid", "new"}} {
		var got []string
		for _, r := range choose(roots, nil, Bounds{Bytes: 1, Local: local, Now: now}) {
			got = append(got, r.Digest)
		}
		if !slices.Equal(got, want) {
			t.Errorf("imports, local %v: %q, want %q", local, got, want)
		}
	}
}

// TestNamesThatCantBeRead are told, and kept for people to see.
func TestNamesThatCantBeRead(t *testing.T) {
	t.Parallel()
	s := Open(t.TempDir())
	if err := s.SetRef(t.Context(), Ref{Name: "gone", Digest: "sha256:" + strings.Repeat("0", 64)}); err != nil {
		t.Fatal(err)
	}
	garbage, pipe := s.refPath("garbage"), s.refPath("pipe")
	if err := errors.Join(os.WriteFile(garbage, []byte("{"), 0o600), unix.Mkfifo(pipe, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Collect(t.Context(), Bounds{Bytes: 1, Now: time.Now()}, false); err != nil {
		t.Fatal(err)
	}
	refs, broken := s.Refs()
	if len(refs) != 0 || len(broken) != 2 || nimbus.ErrorHint(broken[0]) == "" {
		t.Errorf("%v, %v", refs, broken)
	}
	if _, err := os.Lstat(s.refPath("gone")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a name whose root is gone is there: %v", err)
	}
}
