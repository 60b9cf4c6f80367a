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

// Agent is another process that makes a sandbox.
type Agent struct {
	cmd  *exec.Cmd
	said chan string
}

// StartAgent has another process make a sandbox, with the executor that Main makes
// of settings.
func StartAgent(ctx context.Context, t testing.TB, settings any, spec executor.Spec) *Agent {
	t.Helper()
	encoded, err := json.Marshal(settings)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(order{Settings: encoded, ID: spec.ID, Dir: spec.Dir, Class: spec.Class, Deadline: spec.Deadline}) //nolint:musttag // both ends are one program
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	a := &Agent{cmd: exec.CommandContext(ctx, self), said: make(chan string, 1)}
	a.cmd.Env = append(os.Environ(), agentVariable+"="+string(raw))
	a.cmd.Stderr = t.Output()
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { // ends with the process
		said, _ := bufio.NewReader(out).ReadString('\n')
		a.said <- said
	}()
	return a
}

// Made waits until it has made the sandbox, and tells why it has not, or "".
func (a *Agent) Made() string {
	if said := <-a.said; said != "ready\n" {
		return "it says " + said
	}
	return ""
}

// End ends it by a signal, whatever it is at.
func (a *Agent) End(sig syscall.Signal) {
	_ = a.cmd.Process.Signal(sig) // ended already is fine
	_ = a.cmd.Wait()              // it was killed
}

// agent has another process make a sandbox, and ends that process by a signal.
func (h *harness) agent(ctx context.Context, t *testing.T, spec executor.Spec, sig syscall.Signal) {
	t.Helper()
	a := StartAgent(ctx, t, h.cfg.Settings, spec)
	why := a.Made()
	a.End(sig)
	if why != "" {
		t.Fatalf("the agent's sandbox: %s", why)
	}
}
