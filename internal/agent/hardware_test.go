package agent

import (
	"context"
	"io/fs"
	"slices"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
)

func file(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }

func TestHardware(t *testing.T) {
	t.Parallel()
	root := fstest.MapFS{
		"proc/cpuinfo": file("processor\t: 0\nmodel name\t: AMD EPYC 9654\nflags\t\t: fpu avx avx2 avx512f\n\nprocessor\t: 1\nmodel name\t: other\n"),
		"proc/driver/nvidia/gpus/0000:01:00.0/information": file("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 100\n"),
		"proc/driver/nvidia/gpus/0000:02:00.0/information": file("Model: \t\t NVIDIA H100 80GB HBM3\n"),
		"proc/driver/nvidia/gpus/0000:03:00.0/information": file("Model: \t\t Tesla T4\n"),
		"proc/driver/nvidia/gpus/0000:04:00.0/information": file(""),
	}
	got := hardware(root, t.TempDir())
	if got.CPUModel != "AMD EPYC 9654" {
		t.Errorf("the processor is %q", got.CPUModel)
	}
	want := []nimbus.GPUGroup{{Profile: "h100-80gb-hbm3", Model: "NVIDIA H100 80GB HBM3", Count: 2}, {Profile: "tesla-t4", Model: "Tesla T4", Count: 1}}
	if diff := cmp.Diff(want, got.GPUs); diff != "" {
		t.Error(diff)
	}
	for _, word := range []string{"avx2", "avx512", "cuda"} {
		if why := (nimbus.Inventory{Capabilities: got.Capabilities, Executors: []nimbus.ExecutorStatus{{Available: true}}}).
			WhyNot(nimbus.Class{Needs: nimbus.Capabilities(word)}); why != "" {
			t.Errorf("the host %s", why)
		}
	}
	if got := hardware(fstest.MapFS{}, t.TempDir()); got.CPUModel != "" || got.GPUs != nil {
		t.Errorf("a machine that tells nothing has %+v", got)
	}
}

func TestNVMe(t *testing.T) {
	t.Parallel()
	link := func(target string) *fstest.MapFile {
		return &fstest.MapFile{Data: []byte(target), Mode: fs.ModeSymlink}
	}
	root := fstest.MapFS{
		"sys/dev/block/259:1":                link("../../devices/pci0000:00/nvme/nvme0/nvme0n1/nvme0n1p1"),
		"sys/dev/block/8:1":                  link("../../devices/pci0000:00/ata1/sda/sda1"),
		"sys/dev/block/253:0/slaves/nvme0n1": file(""),
		"sys/dev/block/253:1/slaves/nvme0n1": file(""),
		"sys/dev/block/253:1/slaves/sda":     file(""),
	}
	for _, try := range []struct {
		major, minor uint32
		want         bool
	}{{259, 1, true}, {8, 1, false}, {253, 0, true}, {253, 1, false}, {0, 42, false}} {
		if got := onNVMe(root, unix.Mkdev(try.major, try.minor)); got != try.want {
			t.Errorf("%d:%d is NVMe: %v", try.major, try.minor, got)
		}
	}
}

// warmExecutor has sandboxes ready.
type warmExecutor struct {
	executor.Executor
	classes []nimbus.Class
}

func (w warmExecutor) Name() string         { return nimbus.ExecutorDocker }
func (w warmExecutor) Warm() []nimbus.Class { return w.classes }
func (warmExecutor) KeepWarm(context.Context, func() nimbus.Capacity, func()) error {
	return nil
}

// lackingExecutor says of its jobs that they have nothing of what it names.
type lackingExecutor struct{ executor.Executor }

func (lackingExecutor) Name() string { return nimbus.ExecutorMicroVM }
func (e lackingExecutor) Status(context.Context) nimbus.ExecutorStatus {
	return nimbus.ExecutorStatus{Name: e.Name(), Available: true, Lacks: "amx kvm pytorch"}
}

// TestLacks: of what an executor's jobs lack, the host tells what it has itself
// and its operator has not promised.
func TestLacks(t *testing.T) {
	t.Parallel()
	host, err := New(Config{Server: "http://127.0.0.1:1", Data: t.TempDir(), Capabilities: []string{"pytorch"}, Executors: []executor.Executor{lackingExecutor{}}})
	if err != nil {
		t.Fatal(err)
	}
	host.has.Capabilities = []string{"avx2", "kvm", "pytorch"}
	got := host.inventory(t.Context())
	if len(got.Executors) != 1 || got.Executors[0].Lacks != "kvm" {
		t.Errorf("the host says %+v", got.Executors)
	}
}

func TestFreeTellsWhatIsWarm(t *testing.T) {
	t.Parallel()
	a := nimbus.Class{Executor: nimbus.ExecutorDocker, Image: "a"}
	b := nimbus.Class{Executor: nimbus.ExecutorDocker, Image: "b"}
	host, err := New(Config{Server: "http://127.0.0.1:1", Data: t.TempDir(), Capabilities: []string{"pytorch", "pytorch"},
		Executors: []executor.Executor{warmExecutor{classes: []nimbus.Class{a, b, a}}}})
	if err != nil {
		t.Fatal(err)
	}
	free, _ := host.free()
	for range 2 {
		var ok bool
		if !free.IsWarm(a.ID()) {
			t.Fatalf("%v lacks %s", free.Warm, a.ID())
		}
		if _, free, ok = free.Reserve(a); !ok {
			t.Fatal("no room")
		}
	}
	if free.IsWarm(a.ID()) || !free.IsWarm(b.ID()) {
		t.Errorf("left is %v", free.Warm)
	}
	if n := len(slices.DeleteFunc(slices.Clone(host.has.Capabilities), func(w string) bool { return w != "pytorch" })); n != 1 {
		t.Errorf("the host says %v", host.has.Capabilities)
	}
	_, err = New(Config{Server: "http://127.0.0.1:1", Data: t.TempDir(), Capabilities: []string{"Py Torch"}})
	if nimbus.ErrorCode(err) != nimbus.CodeInvalid {
		t.Errorf("a capability of two words: %v", err)
	}
}
