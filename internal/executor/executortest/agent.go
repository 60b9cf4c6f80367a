package executortest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
)

// agentVariable makes a test's program be an agent.
const agentVariable = "NIMBUS_EXECUTORTEST_AGENT"

// order is what such an agent is told.
type order struct {
	Settings json.RawMessage
	ID, Dir  string
	Class    nimbus.Class
	Deadline time.Duration
}

// Main is called first by the TestMain of a package that runs the suite. In
// another process that the suite has started it makes a sandbox, with the
// executor of these settings, and waits to be killed; else it returns.
func Main(executorOf func(settings []byte) (executor.Executor, error)) {
	raw := os.Getenv(agentVariable)
	if raw == "" {
		return
	}
	if err := beAgent(raw, executorOf); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	select {}
}

func beAgent(raw string, executorOf func([]byte) (executor.Executor, error)) error {
	var o order
	if err := json.Unmarshal([]byte(raw), &o); err != nil { //nolint:musttag // both ends are one program
		return fmt.Errorf("read what to do: %w", err)
	}
	e, err := executorOf(o.Settings)
	if err != nil {
		return err
	}
	_, err = e.Create(context.Background(), executor.Spec{ID: o.ID, Dir: o.Dir, Class: o.Class, Deadline: o.Deadline})
	return err
}

// agent has another process make a sandbox, and ends that process by a signal.
func (h *harness) agent(ctx context.Context, t *testing.T, spec executor.Spec, sig syscall.Signal) {
	t.Helper()
	settings, err := json.Marshal(h.cfg.Settings)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(order{Settings: settings, ID: spec.ID, Dir: spec.Dir, Class: spec.Class, Deadline: spec.Deadline}) //nolint:musttag // both ends are one program
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), agentVariable+"="+string(raw))
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said, _ := bufio.NewReader(out).ReadString('\n')
	_ = cmd.Process.Signal(sig)
	_ = cmd.Wait() // it was killed
	if said != "ready\n" {
		t.Fatalf("the agent's sandbox: %s", said)
	}
}
