package choice_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/choice"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/qemu"
)

// scripted is a monitor that tells what it was called for.
type scripted struct {
	vmm.Snapshotter

	name   string
	broken error
	probes int
	calls  []string
}

func (s *scripted) Probe(context.Context) (vmm.Caps, error) {
	s.probes++
	return vmm.Caps{Monitor: s.name}, s.broken
}

func (s *scripted) Command(vmm.Machine) ([]string, error) { return []string{s.name}, nil }

func (s *scripted) Dial(context.Context, string) (net.Conn, error) {
	s.calls = append(s.calls, "dial")
	return nil, errors.New(s.name)
}

func (s *scripted) Pause(context.Context, string) error {
	s.calls = append(s.calls, "pause")
	return nil
}

func (s *scripted) Made(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "jail"))
	return err == nil
}

func (s *scripted) Moving(string, string) error { s.calls = append(s.calls, "moving"); return nil }
func (s *scripted) Clear(string) error          { s.calls = append(s.calls, "clear"); return nil }

func TestWhichMonitor(t *testing.T) {
	t.Parallel()
	broken := nimbus.Errorf(nimbus.CodeUnavailable, "a guest does not run").WithHint("mend it")
	for name, c := range map[string]struct {
		asked             string
		firecracker, qemu error
		want, instead     string
		fails             string
	}{
		"both work":                 {asked: "auto", want: "firecracker"},
		"no KVM":                    {asked: "auto", firecracker: broken, want: "qemu", instead: "a guest does not run"},
		"neither works":             {asked: "auto", firecracker: broken, qemu: errors.New("not installed"), fails: "not installed"},
		"QEMU was asked for":        {asked: "qemu", want: "qemu", instead: "told to use QEMU"},
		"Firecracker was asked for": {asked: "firecracker", want: "firecracker"},
		"it was, and does not work": {asked: "firecracker", firecracker: broken, fails: "a guest does not run"},
		"QEMU was, and isn't there": {asked: "qemu", qemu: errors.New("not installed"), fails: "not installed"},
	} {
		f, q := &scripted{name: "firecracker", broken: c.firecracker}, &scripted{name: "qemu", broken: c.qemu}
		d, err := choice.New(c.asked, q, f)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Command(vmm.Machine{}); err == nil {
			t.Errorf("%s: a command line before anything was probed", name)
		}
		caps, err := d.Probe(t.Context())
		if c.fails != "" {
			if err == nil || !strings.Contains(err.Error(), c.fails) {
				t.Errorf("%s: got %v", name, err)
			}
			continue
		}
		if err != nil || caps.Monitor != c.want {
			t.Errorf("%s: got %+v, %v", name, caps, err)
			continue
		}
		if (caps.Instead == nil) != (c.instead == "") || caps.Instead != nil && (!strings.Contains(caps.Instead.Error(), c.instead) || nimbus.ErrorHint(caps.Instead) == "") {
			t.Errorf("%s: Firecracker is not used because: %v", name, caps.Instead)
		}
		if args, err := d.Command(vmm.Machine{}); err != nil || args[0] != c.want {
			t.Errorf("%s: started %v, %v", name, args, err)
		}
	}
	if _, err := choice.New("xen", nil, nil); nimbus.ErrorCode(err) != nimbus.CodeInvalid || nimbus.ErrorHint(err) == "" {
		t.Errorf("got %v", err)
	}
}

// TestTheChoiceStays: what a machine is made with does not change under an
// agent that runs, and a trial that takes seconds isn't made for each job.
func TestTheChoiceStays(t *testing.T) {
	t.Parallel()
	f, q := &scripted{name: "firecracker", broken: errors.New("no")}, &scripted{name: "qemu"}
	d, err := choice.New(choice.Auto, q, f)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if caps, err := d.Probe(t.Context()); err != nil || caps.Monitor != qemu.Name {
			t.Errorf("got %+v, %v", caps, err)
		}
		f.broken = nil
	}
	if f.probes != 1 {
		t.Errorf("tried %d times", f.probes)
	}
}

// TestAnInterruptedTrialChoosesNothing: who gave up waiting has not seen that
// Firecracker does not work.
func TestAnInterruptedTrialChoosesNothing(t *testing.T) {
	t.Parallel()
	f, q := &scripted{name: "firecracker", broken: context.Canceled}, &scripted{name: "qemu"}
	d, err := choice.New(choice.Auto, q, f)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if caps, err := d.Probe(ctx); err == nil {
		t.Errorf("chose %+v", caps)
	}
	f.broken = nil
	if caps, err := d.Probe(t.Context()); err != nil || caps.Monitor != "firecracker" {
		t.Errorf("got %+v, %v", caps, err)
	}
}

// TestMachinesOfTheOther are what an agent finds that was told otherwise before.
func TestMachinesOfTheOther(t *testing.T) {
	t.Parallel()
	f, q := &scripted{name: "firecracker"}, &scripted{name: "qemu"}
	d, err := choice.New(qemu.Name, q, f)
	if err != nil {
		t.Fatal(err)
	}
	jailed, plain := t.TempDir(), t.TempDir()
	if err := os.Mkdir(filepath.Join(jailed, "jail"), 0o700); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{jailed: "firecracker", plain: "qemu"} {
		if _, err := d.Dial(t.Context(), dir); err == nil || err.Error() != want {
			t.Errorf("dialled %v, not %s", err, want)
		}
		if err := d.Pause(t.Context(), dir); err != nil {
			t.Error(err)
		}
	}
	if err := errors.Join(d.Moving(jailed, plain), d.Clear(jailed)); err != nil {
		t.Error(err)
	}
	if got := strings.Join(f.calls, " "); got != "dial pause moving clear" {
		t.Errorf("Firecracker was called for %s", got)
	}
}
