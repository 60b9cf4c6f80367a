package microvm_test

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/images/docker"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/imagetest"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot/dnsguard/dnstest"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot/netslottest"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// registryPort is where machines reach the registry, at their gateway.
const registryPort = 5000

// toolbox serves an image of a shell and the tests' programs by a registry, and
// returns its address.
func toolbox(t *testing.T, programs ...string) string {
	t.Helper()
	testenv.Require(t, "/bin/busybox")
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, path := range append(programs, "/bin/busybox") {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "bin/" + filepath.Base(path), Mode: 0o755, Size: int64(len(raw))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(raw); err != nil {
			t.Fatal(err)
		}
	}
	for _, applet := range []string{"cat", "echo", "head", "sh", "sleep", "tail", "tr"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox", Mode: 0o777}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Config.Env = "linux", "amd64", []string{"PATH=/bin", "LESSON=one"}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	address := strings.TrimPrefix(server.URL, "http://")
	ref, err := name.ParseReference(address + "/tools:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	return address
}

// TestDocker has a job use docker in its machine: as GitHub's runner does for
// services and containers of a workflow, and as people do.
func TestDocker(t *testing.T) {
	cfg := config(t)
	cfg.Images = imagetest.Docker(t)
	world := netslottest.New(t)
	service, escape := buildStatic(t, "./testdata/service"), buildStatic(t, "./testdata/escape")
	cfg.Relays = []netslot.Relay{{Port: registryPort, Target: toolbox(t, service, escape)}}
	cfg.Resolvers = []string{dnstest.Serve(t, map[string][]string{"ok.example.com": {"A " + world.Public}}).Addr}
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	e := microvm.New(cfg)
	sp := spec(t)
	sp.Deadline = 4 * patience
	sp.Class.Image, sp.Class.MemoryMiB, sp.Class.Network = docker.Name, 768, nimbus.NetworkInternet
	s, err := e.Create(ctx, sp)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Destroy(context.Background())
	script, err := os.ReadFile("testdata/docker.sh")
	if err != nil {
		t.Fatal(err)
	}
	neighbour := world.Neighbour(ctx, t, cfg.Owner)
	variables := strings.Join([]string{
		"IMAGE=gateway.nimbus.internal:5000/tools:1", "NAMES='ok.example.com gateway.nimbus.internal'",
		"REACHED='gateway.nimbus.internal:5000 ok.example.com:" + world.Port + "'",
		"REFUSED='" + strings.Join([]string{
			"169.254.169.254:80", "10.0.0.1:80", neighbour + ":" + world.Port, net.JoinHostPort(world.Host, world.Port), "172.16.0.1:22",
		}, " ") + "'",
	}, "\n")
	job := begin(ctx, t, s, "docker", []string{service}, "bash", "-c", variables+"\n"+string(script))
	said := job.until("ready\n")
	t.Log(said)
	_ = connect.CodeOf
	_ = nimbusv1.SignalRequest{}
}
