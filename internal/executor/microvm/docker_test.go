package microvm_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

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
	"github.com/nimbus-ci/nimbus/internal/forge"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// Ports of the gateway at which a machine reaches a registry and the double of
// GitHub, and the registry's image as it calls it.
const (
	registryPort = 5000
	doublePort   = 3000
	toolsImage   = microvm.GatewayName + ":5000/tools:1"
)

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
	for _, applet := range []string{"cat", "echo", "head", "sh", "sort", "tail", "tr"} {
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
	config.OS, config.Architecture = "linux", "amd64"
	config.Config.Env, config.Config.Cmd = []string{"PATH=/bin", "LESSON=one"}, []string{"service", "serve", ":80", "database"}
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

// pushed is a workflow's only job at a double of GitHub.
type pushed struct {
	double *githubtest.Server
	id     int64
	jit    string // configuration of a runner for it
}

// push pushes a workflow of one job.
func push(ctx context.Context, t *testing.T, workflow string) pushed {
	t.Helper()
	double, err := githubtest.Start(githubtest.Config{RunnerURL: "http://" + net.JoinHostPort(microvm.GatewayName, strconv.Itoa(doublePort))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(double.Close)
	heard := make(chan nimbus.ForgeEvent, 8)
	hook := httptest.NewServer(forge.NewWebhook(forge.WebhookConfig{
		Secrets: func() [][]byte { return [][]byte{double.WebhookSecret()} },
		Process: func(_ context.Context, _ nimbus.Delivery, ev *nimbus.ForgeEvent) (nimbus.DeliveryOutcome, error) {
			if ev != nil && ev.Job.JobID != 0 {
				select {
				case heard <- *ev:
				default:
				}
			}
			return nimbus.DeliveryAccepted, nil
		},
	}))
	t.Cleanup(hook.Close)
	double.SetWebhook(hook.URL)
	app, err := forge.NewApp(forge.AppConfig{AppID: double.AppID(), PrivateKey: double.PrivateKey(), BaseURL: double.URL()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := double.Push(ctx, "octo-org/hello", fstest.MapFS{".github/workflows/ci.yml": {Data: []byte(workflow)}}); err != nil {
		t.Fatal(err)
	}
	if err := double.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	ev := <-heard
	_, jit, err := app.CreateRunner(ctx, ev.Job, "inside", ev.Labels)
	if err != nil {
		t.Fatal(err)
	}
	return pushed{double, ev.Job.JobID, jit}
}

// servicesWorkflow has a job in a container, with a service beside it.
const servicesWorkflow = `
on: push
jobs:
  a:
    runs-on: [nimbus, "image:docker"]
    container:
      image: ` + toolsImage + `
      env: {WORD: inside}
    services:
      db:
        image: ` + toolsImage + `
        ports: ["8080:80", "81"]
        options: >-
          --health-cmd "service get http://127.0.0.1:80/" --health-interval 8s --health-timeout 60s
    steps:
      - run: |
          echo "said $WORD in $PWD by $LESSON: $(service get http://db/)"
          echo "said $(escape look ok.example.com gateway.nimbus.internal | tr '\n' ,)"
          echo "said $(escape dial REACHED REFUSED | sort | tr '\n' ,)"
          echo "LATER=kept" >> "$GITHUB_ENV"
      - run: echo "said $LATER"
`

// TestDocker has a job use docker in its machine: by a workflow's services and
// container, and as people do. It has one boot for all of it.
func TestDocker(t *testing.T) {
	cfg := config(t)
	cfg.Images = imagetest.Docker(t)
	world := netslottest.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), 6*patience)
	defer cancel()
	neighbour := world.Neighbour(ctx, t, cfg.Owner)
	reached := []string{microvm.GatewayName + ":5000", "ok.example.com:" + world.Port}
	refused := strings.Join([]string{
		"169.254.169.254:80", "10.0.0.1:80", "172.16.0.1:22", neighbour + ":" + world.Port, net.JoinHostPort(world.Host, world.Port), net.JoinHostPort(world.Other, world.Port),
	}, " ")
	job := push(ctx, t, strings.NewReplacer("REACHED", strings.Join(reached, " "), "REFUSED", refused).Replace(servicesWorkflow))
	service, escape := testProgram(t, "service"), testProgram(t, "escape")
	cfg.Relays = []netslot.Relay{
		{Port: registryPort, Target: toolbox(t, service, escape)}, {Port: doublePort, Target: strings.TrimPrefix(job.double.URL(), "http://")},
	}
	cfg.Resolvers = []string{dnstest.Serve(t, map[string][]string{"ok.example.com": {"A " + world.Public}}).Addr}
	e := microvm.New(cfg)
	sp := spec(t)
	sp.Deadline = 6 * patience
	sp.Class.Image, sp.Class.MemoryMiB, sp.Class.Network, sp.Class.Reach = docker.Name, 768, nimbus.NetworkNames, "*.example.com"
	s, err := e.Create(ctx, sp)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Destroy(context.Background())
	script, err := os.ReadFile("testdata/docker.sh")
	if err != nil {
		t.Fatal(err)
	}
	variables := fmt.Sprintf("export IMAGE=%s REACHED='%s' REFUSED='%s' ACTIONS_RUNNER_INPUT_JITCONFIG=%s\n", toolsImage, strings.Join(reached, " "), refused, job.jit)
	running := begin(ctx, t, s, "docker", []string{service}, "bash", "-c", variables+string(script))
	running.until("ready\n")
	if _, err := running.client.Signal(ctx, connect.NewRequest(&nimbusv1.SignalRequest{Signal: "SIGTERM"})); err != nil {
		t.Fatal(err)
	}
	out, exit := running.end()
	got := "reached " + strings.Join(reached, ",reached ") + ","
	want := fmt.Sprintf(`before: 0 daemons, 0 bridges, 660 docker
as runner: API 1.41
as others: 1
after: 2 daemons, overlay2 2 cgroupfs
data: /var/lib/docker
the workflow: 0, left: 0 containers, 0 networks
by port: database
of the machine's network: %[1]s
built: built kept 
out of memory: 137, of processes: %[2]d
ready
told to end: 1 containers
again: 1 containers
without settings: none
`, got, processes(out))
	told := linesOf(out, "nimbus: ")
	for line := range strings.Lines(told) {
		out = strings.Replace(out, line, "", 1)
	}
	if strings.Count(told, "nimbus: the docker daemon has ended with 1: unable to configure") != 5 || !strings.HasSuffix(told, "\nnimbus: the docker daemon is not started again for 30s: its clients are turned away\n") {
		t.Errorf("of a daemon that can't start it is told %q", told)
	}
	if out != want || exit.GetCode() != 3 || exit.GetOutOfMemory() {
		t.Errorf("the job said\n%s\nwant\n%s\n%v", out, want, exit)
	}
	ended, err := job.double.WaitJob(ctx, job.id, func(j githubtest.Job) bool { return j.Status == "completed" })
	if err != nil || ended.Conclusion != "success" {
		t.Errorf("GitHub has %+v, %v", ended, err)
	}
	want = fmt.Sprintf(`said inside in /__w/hello/hello by one: database
said found ok.example.com [%s],found gateway.nimbus.internal [172.16.0.1],
said %s
said kept
`, world.Public, got)
	if said := linesOf(ended.Log, "said "); said != want {
		t.Errorf("its steps said\n%s\nwant\n%s\nin\n%s", said, want, ended.Log)
	}
	if err := s.Destroy(ctx); err != nil {
		t.Error(err)
	}
	if left, err := e.Sweep(ctx, func() []string { return []string{"neighbour"} }); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// linesOf are the lines of a text that begin so.
func linesOf(text, prefix string) string {
	var all strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, prefix) {
			all.WriteString(line)
		}
	}
	return all.String()
}

// processes is the bound that a job's containers say that they have; 0 for one
// that is none.
func processes(out string) (n int) {
	_, after, _ := strings.Cut(out, "of processes: ")
	fmt.Sscan(after, &n)
	return n
}
