package local_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/executortest"
	"github.com/nimbus-ci/nimbus/internal/executor/local"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

func TestMain(m *testing.M) {
	executortest.Main(func(settings []byte) (executor.Executor, error) {
		var cfg local.Config
		err := json.Unmarshal(settings, &cfg) //nolint:musttag // between two processes of this test
		return local.New(cfg), err
	})
	os.Exit(m.Run())
}

func TestConformance(t *testing.T) {
	testenv.Require(t, "root")
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin+"/", "../../../cmd/nimbus-shim", "../../../cmd/nimbus-guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cfg := local.Config{
		Shim: filepath.Join(bin, "nimbus-shim"), Guest: filepath.Join(bin, "nimbus-guest"),
		Owner: fmt.Sprintf("t%d", os.Getpid()),
	}
	executortest.Run(t, executortest.Config{
		Patience: 3 * time.Minute, Settings: cfg,
		New: func(*testing.T) executor.Executor { return local.New(cfg) },
	})
}
