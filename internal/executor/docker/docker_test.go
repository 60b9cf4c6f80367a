package docker_test

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/docker"
	"github.com/nimbus-ci/nimbus/internal/executor/executortest"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/library"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// imageName is an image of the machine's own programs, in the daemons of tests.
const imageName = "nimbus.test/tools:1"

// config builds the programs, and starts a daemon that has an image.
func config(t *testing.T) (docker.Config, *testenv.DockerDaemon) {
	t.Helper()
	testenv.Require(t, "root", "dockerd", "nft", "mke2fs")
	d := testenv.StartDocker(t, "--live-restore")
	testenv.DockerImage(t, d.Socket, "nimbus.test/tools", "1", "ENV LESSON=one", "VOLUME /data")
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin+"/", "../../../cmd/nimbus-shim", "../../../cmd/nimbus-guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return docker.Config{
		Shim: filepath.Join(bin, "nimbus-shim"), Guest: filepath.Join(bin, "nimbus-guest"),
		Host: "unix://" + d.Socket, Owner: fmt.Sprintf("t%d", os.Getpid()), Dir: t.TempDir(), DiskMiB: 64,
		Built: image.Store{Dir: t.TempDir()}, Catalog: library.Catalog{Aliases: map[string]string{nimbus.DefaultImage: imageName}},
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}, d
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
	executortest.Run(t, executortest.Config{
		Patience: 2 * time.Minute,
		New:      func(t *testing.T) executor.Executor { return create(t, cfg) },
	})
}
