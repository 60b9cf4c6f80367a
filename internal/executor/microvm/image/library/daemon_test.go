package library_test

import (
	"archive/tar"
	"bytes"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/library"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// load makes an image of one layer in a docker daemon, as `docker import` does.
func load(t *testing.T, socket, reference string, changes ...string) {
	t.Helper()
	var rootfs bytes.Buffer
	w := tar.NewWriter(&rootfs)
	for _, h := range []tar.Header{
		{Typeflag: tar.TypeDir, Name: "etc/", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: "etc/release", Mode: 0o640, Uid: 7, Gid: 8},
		{Typeflag: tar.TypeSymlink, Name: "release", Linkname: "etc/release", Mode: 0o777},
	} {
		must(t, w.WriteHeader(&h))
	}
	must(t, w.Close())
	name, tag, _ := strings.Cut(reference, ":")
	query := url.Values{"fromSrc": {"-"}, "repo": {name}, "tag": {tag}, "changes": changes}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://docker/images/create?"+query.Encode(), &rootfs)
	must(t, err)
	answer, err := testenv.DockerClient(socket).Do(r)
	must(t, err)
	defer answer.Body.Close()
	said, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK || bytes.Contains(said, []byte(`"error"`)) {
		t.Fatalf("docker import: %s, %v: %s", answer.Status, err, said)
	}
}

// TestDockerDaemon imports images of a real daemon.
func TestDockerDaemon(t *testing.T) {
	testenv.Require(t, "sqfs2tar")
	socket := testenv.Docker(t)
	t.Setenv("DOCKER_HOST", "unix://"+socket)
	load(t, socket, "acme/tool:1", "ENV LESSON=one", "ENV PATH=/opt/bin:/bin", "USER 7", "WORKDIR /srv")
	load(t, socket, "acme/tool:2", "ENV LESSON=two")
	l := library.New(library.Config{Images: store(t)})
	ref, root, err := l.Import(t.Context(), "daemon:acme/tool:1", "tool", silent)
	must(t, err)
	if ref.Name != "tool" || !slices.Equal(root.Env, []string{"LESSON=one", "PATH=/opt/bin:/bin"}) || root.Source != "daemon:acme/tool:1" || root.Arch != "amd64" {
		t.Errorf("got %+v, %+v", ref, root)
	}
	list, err := exec.CommandContext(t.Context(), "sh", "-c", `sqfs2tar --no-skip "$1" | tar -tv --numeric-owner`, "sh", root.Path()).Output()
	must(t, err)
	for _, want := range []string{"-rw-r----- 7/8 ", " etc/release\n", " release -> etc/release\n"} {
		if !strings.Contains(string(list), want) {
			t.Errorf("no %q in\n%s", want, list)
		}
	}
	img, err := l.Get(t.Context(), "tool", "job", silent)
	if err != nil || img.Root() != root.Path() || !slices.Equal(img.Env(), root.Env) {
		t.Errorf("a job gets %q, %q, %v", img.Root(), img.Env(), err)
	}

	// The same files with other variables are another image.
	_, second, err := l.Import(t.Context(), "daemon:acme/tool:2", "tool", silent)
	must(t, err)
	img, err = l.Get(t.Context(), "tool", "job", silent)
	if err != nil || second.Digest == root.Digest || !slices.Equal(img.Env(), []string{"LESSON=two"}) {
		t.Errorf("a job gets %q of %q, %v; the first was %q", img.Env(), second.Digest, err, root.Digest)
	}

	_, _, err = l.Import(t.Context(), "daemon:acme/none:1", "none", silent)
	if nimbus.ErrorCode(err) != nimbus.CodeNotFound || nimbus.ErrorHint(err) == "" {
		t.Errorf("an image that it has not: %v", err)
	}
	t.Setenv("DOCKER_HOST", "unix://"+socket+".none")
	_, _, err = l.Import(t.Context(), "daemon:acme/tool:1", "away", silent)
	if nimbus.ErrorCode(err) != nimbus.CodeUnavailable || !strings.Contains(nimbus.ErrorHint(err), socket+".none") {
		t.Errorf("a daemon that is away: %v", err)
	}
	t.Setenv("DOCKER_HOST", "tcp://elsewhere:2375")
	if _, _, err = l.Import(t.Context(), "daemon:acme/tool:1", "away", silent); nimbus.ErrorCode(err) != nimbus.CodeUnsupported {
		t.Errorf("a daemon elsewhere: %v", err)
	}
}
