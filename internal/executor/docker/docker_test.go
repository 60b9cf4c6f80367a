package docker_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/docker"
	"github.com/nimbus-ci/nimbus/internal/executor/executortest"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/library"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

func TestMain(m *testing.M) {
	executortest.Main(func(settings []byte) (executor.Executor, error) {
		var cfg docker.Config
		if err := json.Unmarshal(settings, &cfg); err != nil { //nolint:musttag // both ends are one program
			return nil, err
		}
		return docker.New(cfg)
	})
	os.Exit(m.Run())
}

// imageName is an image of the machine's own programs, in the daemons of tests.
const imageName = "nimbus.test/tools:1"

// config builds the programs, and starts a daemon, with flags, that has an image.
func config(t *testing.T, flags ...string) (docker.Config, *testenv.DockerDaemon) {
	t.Helper()
	testenv.Require(t, "root", "dockerd", "nft", "mke2fs")
	d := testenv.DockerWith(t, append(flags, "--live-restore", "--cgroup-parent", cgroupParent())...)
	t.Cleanup(removeCgroups)
	if err := d.Image("nimbus.test/tools", "1", "ENV LESSON=one", "VOLUME /data"); err != nil {
		t.Fatal(err)
	}
	return docker.Config{
		Shim: testenv.Program(t, "cmd/nimbus-shim"), Guest: testenv.Program(t, "cmd/nimbus-guest"),
		Host: "unix://" + d.Socket, Owner: fmt.Sprintf("t%d", os.Getpid()), Dir: t.TempDir(), DiskMiB: 64,
		Built: image.Store{Dir: t.TempDir()}, Catalog: library.Catalog{Aliases: map[string]string{nimbus.DefaultImage: imageName}},
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}, d
}

// cgroupParent is where the containers of this process' daemons are.
func cgroupParent() string { return fmt.Sprintf("/nimbus-test-%d", os.Getpid()) }

// cgroups are all folders of it that there are, but for itself.
func cgroups() []string {
	var all []string
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		found, _ := filepath.Glob(pattern + cgroupParent() + "/*/cgroup.procs")
		all = append(all, found...)
	}
	return all
}

// removeCgroups removes the parent, which the daemon leaves.
func removeCgroups() {
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		found, _ := filepath.Glob(pattern + cgroupParent())
		for _, dir := range found {
			os.Remove(dir)
		}
	}
}

func create(t *testing.T, cfg docker.Config) *docker.Executor {
	t.Helper()
	e, err := docker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestConformance(t *testing.T) {
	cfg, _ := config(t)
	status := create(t, cfg).Status(t.Context())
	t.Log(status)
	if !status.Available {
		t.Fatal(status)
	}
	settings := cfg
	settings.Log = nil // it is this process'
	executortest.Run(t, executortest.Config{
		Patience: patience, Settings: settings,
		New: func(t *testing.T) executor.Executor { return create(t, cfg) },
	})
}
