package debian_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus/images/runner"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/debian"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// released serves what could be a release of GitHub's runner.
func released(t *testing.T) (server *httptest.Server, r runner.Release) {
	t.Helper()
	var archive bytes.Buffer
	zipped := gzip.NewWriter(&archive)
	w := tar.NewWriter(zipped)
	for name, content := range map[string]string{"./run.sh": "#!/bin/bash\necho official\n", "./bin/Runner.Listener": "listener"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Uid: 12, Gid: 34, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "./bin/link", Linkname: "Runner.Listener"}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zipped.Close(); err != nil {
		t.Fatal(err)
	}
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(archive.Bytes()) }))
	t.Cleanup(server.Close)
	digest := sha256.Sum256(archive.Bytes())
	return server, runner.Release{Version: "1.2.3", URL: server.URL, SHA256: hex.EncodeToString(digest[:]), Packages: []string{"zlib1g"}}
}

// TestOfficialRunner builds one image again and again while GitHub's runner
// can be fetched, and can't.
func TestOfficialRunner(t *testing.T) {
	testenv.Require(t, "apt-get", "dpkg-deb", "tar2sqfs", "sqfs2tar", "tar")
	server, release := released(t)
	program := filepath.Join(t.TempDir(), "nimbus-runner")
	if err := os.WriteFile(program, []byte("ours"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := debian.Config{
		Store: image.Store{Dir: t.TempDir()}, Name: "small", Packages: []string{"base-files"},
		Runner: &debian.GitHubRunner{StandIn: program, Release: release},
	}
	build := func(fetch debian.Fetch, want string) image.Image {
		t.Helper()
		cfg.Runner.Fetch = fetch
		img, err := debian.Build(t.Context(), cfg)
		if err != nil || img.Runner != want {
			t.Fatalf("runner %q, %v; want %s", img.Runner, err, want)
		}
		if err := img.Verify(); err != nil {
			t.Error(err)
		}
		return img
	}
	first := build(debian.FetchCached, "stand-in")

	cfg.Runner.Release.SHA256 = strings.Repeat("0", 64)
	cfg.Runner.Fetch = debian.FetchTry
	if _, err := debian.Build(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), release.SHA256) {
		t.Errorf("another digest: %v", err)
	}
	cfg.Runner.Release.SHA256 = release.SHA256

	url := cfg.Runner.Release.URL
	gone := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(gone.Close)
	for _, away := range []string{gone.URL, "http://127.0.0.1:1/"} {
		cfg.Runner.Release.URL = away
		if img := build(debian.FetchTry, "stand-in"); !img.BuiltAt.Equal(first.BuiltAt) {
			t.Error("the same was built twice")
		}
		cfg.Runner.Fetch = debian.FetchMust
		if _, err := debian.Build(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "can't be fetched") {
			t.Errorf("%s: %v", away, err)
		}
	}
	cfg.Runner.Release.URL = url

	whole := build(debian.FetchTry, "official 1.2.3")
	if len(whole.Packages) <= len(first.Packages) {
		t.Errorf("the packages that it needs aren't there: %v", whole.Packages)
	}
	list := sh(t, "sqfs2tar --no-skip "+whole.Root()+" | tar -tv --numeric-owner")
	for _, want := range []string{"-rwxr-xr-x 1001/1001 .* opt/runner/run.sh", "lrwxrwxrwx 1001/1001 .* opt/runner/bin/link -> Runner.Listener", "-rwxr-xr-x 0/0 .* usr/local/bin/nimbus-runner"} {
		if sh(t, "grep -c -e '"+want+"' || :", list) != "1\n" {
			t.Errorf("the image has no %q", want)
		}
	}
	if inside := sh(t, "sqfs2tar --no-skip "+whole.Root()+" | tar -xO opt/runner/NIMBUS_RUNNER"); inside != "official 1.2.3\n" {
		t.Errorf("the image says %q", inside)
	}

	// What was fetched stays, network or not, wanted or not.
	server.Close()
	for _, fetch := range []debian.Fetch{debian.FetchCached, debian.FetchTry, debian.FetchMust} {
		if img := build(fetch, "official 1.2.3"); !img.BuiltAt.Equal(whole.BuiltAt) {
			t.Errorf("built once more for %d", fetch)
		}
	}
	if err := os.WriteFile(program, []byte("ours, changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	spoil(t, build(debian.FetchCached, "official 1.2.3"))
}

// spoil changes a byte of an image, which must show.
func spoil(t *testing.T, img image.Image) {
	t.Helper()
	f, err := os.OpenFile(img.Root(), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{0xff}, 5000); err != nil {
		t.Fatal(err)
	}
	if err := img.Verify(); err == nil || !strings.Contains(err.Error(), "root.squashfs") {
		t.Errorf("verified a spoilt image: %v", err)
	}
}

func sh(t *testing.T, script string, stdin ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script)
	cmd.Stdin = strings.NewReader(strings.Join(stdin, ""))
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	return string(out)
}
