package gpu_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/docker"
	"github.com/nimbus-ci/nimbus/internal/executor/executortest"
	"github.com/nimbus-ci/nimbus/internal/executor/gpu"
	"github.com/nimbus-ci/nimbus/internal/executor/gpu/driver"
	"github.com/nimbus-ci/nimbus/internal/executor/gpu/gputest"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/library"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

const (
	patience  = 3 * time.Minute
	imageName = "nimbus.test/tools:1"
)

// settings are a Config that another process can be told.
type settings struct {
	Containers docker.Config
	Program    string
	CDIDirs    []string
	Images     map[string]string
}

func (s settings) executor() (*gpu.Executor, error) {
	return gpu.New(gpu.Config{Containers: s.Containers, NVML: func() (string, error) { return s.Program, nil }, CDIDirs: s.CDIDirs, Images: s.Images})
}

func TestMain(m *testing.M) {
	executortest.Main(func(raw []byte) (executor.Executor, error) {
		var s settings
		if err := json.Unmarshal(raw, &s); err != nil { //nolint:musttag // both ends are one program
			return nil, err
		}
		return s.executor()
	})
	os.Exit(m.Run())
}

// setUp starts a daemon on a machine with eight GPUs.
func setUp(t *testing.T) (settings, *gputest.Machine) {
	t.Helper()
	testenv.Require(t, "root", "dockerd", "nft", "mke2fs")
	machine := gputest.New(t)
	d := testenv.DockerWith(t, append(machine.Flags(t), "--live-restore")...)
	if err := d.Image("nimbus.test/tools", "1", "ENV LESSON=one"); err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin+"/", "../../../cmd/nimbus-shim", "../../../cmd/nimbus-guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return settings{
		Program: machine.Program, CDIDirs: []string{machine.CDI},
		Containers: docker.Config{
			Shim: filepath.Join(bin, "nimbus-shim"), Guest: filepath.Join(bin, "nimbus-guest"),
			Host: "unix://" + d.Socket, Owner: fmt.Sprintf("t%dg", os.Getpid()), Dir: t.TempDir(), DiskMiB: 64,
			Built: image.Store{Dir: t.TempDir()}, Catalog: library.Catalog{Aliases: map[string]string{nimbus.DefaultImage: imageName}},
			Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		},
	}, machine
}

func create(t *testing.T, s settings) *gpu.Executor {
	t.Helper()
	e, err := s.executor()
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// watched is an executor as an agent has it: its GPUs are watched.
func watched(t *testing.T, s settings) (e *gpu.Executor, changes <-chan struct{}) {
	t.Helper()
	e = create(t, s)
	if status := e.Status(t.Context()); !status.Available {
		t.Fatal(status)
	}
	ctx, stop := context.WithCancel(t.Context())
	changed, done := make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(done)
		_ = e.Watch(ctx, func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		})
	}()
	t.Cleanup(func() {
		stop()
		<-done
	})
	return e, changed
}

func spec(t *testing.T, gpus int, profile string) executor.Spec {
	t.Helper()
	dir, err := os.MkdirTemp("", fmt.Sprintf("nimbus-sandbox-%d-", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return executor.Spec{
		ID: nimbus.NewID(nimbus.PrefixAttempt, time.Now()), Dir: dir, Deadline: patience, Reserved: nimbus.Reservation{GPUProfile: profile, GPUs: gpus},
		Class: nimbus.Class{Executor: nimbus.ExecutorGPU, Image: nimbus.DefaultImage, CPUs: 1, MemoryMiB: 256, Network: nimbus.NetworkNone, GPUs: gpus},
	}
}

func sandbox(ctx context.Context, t *testing.T, e *gpu.Executor, sp executor.Spec) executor.Sandbox {
	t.Helper()
	s, err := e.Create(ctx, sp)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Destroy(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestConformance(t *testing.T) {
	s, _ := setUp(t)
	status := create(t, s).Status(t.Context())
	t.Log(status)
	if !status.Available || !strings.Contains(status.Detail, "8 × "+gputest.Profile) || !strings.Contains(status.Detail, "CUDA 12.4") {
		t.Fatal(status)
	}
	other := s
	other.Containers.Log = nil // it is this process'
	executortest.Run(t, executortest.Config{
		Patience: patience, Settings: other,
		New: func(t *testing.T) executor.Executor { return create(t, s) },
	})
}

// look is what a job sees of GPUs.
const look = `for f in /dev/nvidia*; do [ -c $f ] && echo $f && echo x > $f; done; env | grep -E '^(MOCK|NVIDIA|LESSON)' | sort; cat /usr/lib/libcuda.so.1
touch /usr/lib/libcuda.so.1 2>/dev/null && echo wrote; :`

// TestDevicesAreInside looks from inside at what a job got, and that no other job
// gets it while that has it, whatever becomes of the agent.
func TestDevicesAreInside(t *testing.T) {
	s, _ := setUp(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	e, _ := watched(t, s)
	said := ""
	sp := spec(t, 2, gputest.Profile)
	sp.Tell = func(what string) { said += what + "\n" }
	first := sandbox(ctx, t, e, sp)
	out, exit := executortest.Do(ctx, t, first, "unset LESSON; "+look)
	_ = exit
	// Below one switch, and of the node that is left with the most.
	want := "/dev/nvidia0\n/dev/nvidia1\n/dev/nvidiactl\nnot a library"
	if out != want {
		t.Errorf("the job sees:\n%s\nwant:\n%s", out, want)
	}
	env := first.(executor.Furnished).Env()
	for _, pair := range []string{"MOCK_GPU_0=1", "MOCK_GPU_1=1", "NVIDIA_VISIBLE_DEVICES=void", "LESSON=one"} {
		if !slices.Contains(env, pair) {
			t.Errorf("the job's variables lack %s: %v", pair, env)
		}
	}
	if !strings.Contains(said, gputest.ID(0)) || !strings.Contains(said, gputest.ID(1)) {
		t.Errorf("the job is told %q", said)
	}

	// The next agent knows whose they are.
	next := create(t, s)
	again, err := next.Adopt(ctx, sp.ID, sp.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if removed, err := next.Sweep(ctx, func() []string { return []string{sp.ID} }); err != nil || len(removed) > 0 {
		t.Errorf("a job's was swept: %v, %v", removed, err)
	}
	second := sandbox(ctx, t, next, spec(t, 6, gputest.Profile))
	out, _ = executortest.Do(ctx, t, second, "ls /dev | grep nvidia")
	if out != "nvidia2\nnvidia3\nnvidia4\nnvidia5\nnvidia6\nnvidia7\nnvidiactl\n" {
		t.Errorf("the second job sees:\n%s", out)
	}
	if _, err := next.Create(ctx, spec(t, 1, gputest.Profile)); nimbus.ErrorCode(err) != nimbus.CodeUnavailable || !strings.Contains(err.Error(), "0 are") {
		t.Errorf("a ninth: %v", err)
	}
	// They are given back with their sandbox.
	if err := again.Destroy(ctx); err != nil {
		t.Fatal(err)
	}
	third := sandbox(ctx, t, e, spec(t, 2, gputest.Profile))
	if out, _ := executortest.Do(ctx, t, third, "ls /dev | grep nvidia"); out != "nvidia0\nnvidia1\nnvidiactl\n" {
		t.Errorf("the third job sees:\n%s", out)
	}
	// And by the sweep, of one that nobody wants any more.
	if _, err := e.Sweep(ctx, func() []string { return nil }); err != nil {
		t.Fatal(err)
	}
	sandbox(ctx, t, e, spec(t, 8, gputest.Profile))
}

// TestGPUsGoOutOfService: one that has gone bad is no job's, and it is told why;
// one on which something was left is not, until it is idle.
func TestGPUsGoOutOfService(t *testing.T) {
	s, machine := setUp(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	e, changes := watched(t, s)
	await := func(what string, ok func(executor.Equipment) bool) {
		t.Helper()
		for !ok(e.Equipment()) {
			select {
			case <-changes:
			case <-ctx.Done():
				t.Fatalf("%s: %+v", what, e.Equipment())
			}
		}
	}
	if eq := e.Equipment(); len(eq.Faults) > 0 || eq.GPUs[0].Count != 8 || !slices.Contains(eq.Capabilities, "sm_80") || !slices.Contains(eq.Capabilities, "nvlink") {
		t.Errorf("at first: %+v", eq)
	}
	bad := driver.MockState{GPUs: map[int]driver.MockGPU{
		0: {XID: 79}, 1: {UncorrectedECC: 1}, 2: {Celsius: 95}, 3: {PIDs: []int{4711}}, 4: {MemoryMiB: 2000}, 5: {Lost: true}, 6: {XID: 31}, // the last is a program's
	}}
	machine.Set(t, bad)
	await("some are bad", func(eq executor.Equipment) bool { return len(eq.Faults) == 6 && eq.GPUs[0].Count == 2 })
	var told []string
	for _, f := range e.Equipment().Faults {
		told = append(told, f.GPU+" "+f.Why)
	}
	want := []string{
		"GPU 0 at 0000:01:00.0 has had the driver's error XID 79: it has fallen off the bus",
		"GPU 1 at 0000:02:00.0 has had 1 uncorrectable memory errors (ECC) since the driver was loaded",
		"GPU 2 at 0000:03:00.0 is too hot: it slows down at 90 °C, and comes back at 80 °C",
		"GPU 3 at 0000:04:00.0 is in use by processes that are no job's: 4711",
		"GPU 4 at 0000:81:00.0 has more than 512 MiB of memory in use, and no job",
		"GPU 5 at 0000:82:00.0 can't be read: ERROR_GPU_IS_LOST",
	}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Error(diff)
	}
	if _, err := e.Create(ctx, spec(t, 3, gputest.Profile)); nimbus.ErrorCode(err) != nimbus.CodeUnavailable || !strings.Contains(err.Error(), "2 are, and 6 are out of service") {
		t.Errorf("three of two: %v", err)
	}
	machine.Set(t, driver.MockState{})
	await("what passes has passed", func(eq executor.Equipment) bool { return len(eq.Faults) == 1 && eq.GPUs[0].Count == 7 })

	// A job that leaves a process behind.
	box, err := e.Create(ctx, spec(t, 7, gputest.Profile))
	if err != nil {
		t.Fatal(err)
	}
	machine.Set(t, driver.MockState{GPUs: map[int]driver.MockGPU{7: {PIDs: []int{1}, MemoryMiB: 3000}}})
	if err := box.Destroy(ctx); err != nil {
		t.Fatal(err)
	}
	await("one is not idle", func(eq executor.Equipment) bool { return len(eq.Faults) == 2 && eq.GPUs[0].Count == 6 })
	machine.Set(t, driver.MockState{})
	await("it is idle", func(eq executor.Equipment) bool { return len(eq.Faults) == 1 && eq.GPUs[0].Count == 7 })

	// One whose processes take a while to be gone: its end is waited for.
	if box, err = e.Create(ctx, spec(t, 7, gputest.Profile)); err != nil {
		t.Fatal(err)
	}
	machine.Set(t, driver.MockState{GPUs: map[int]driver.MockGPU{7: {PIDs: []int{1}, MemoryMiB: 3000}}})
	for { // until it has been seen
		used, err := box.(executor.Accelerated).GPUUsage(ctx)
		if err == nil && used.MemoryBytes >= 3000<<20 {
			break
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("what runs on a GPU is not seen: %+v, %v", used, err)
		}
	}
	gone := time.AfterFunc(2*time.Second, func() { machine.Set(t, driver.MockState{}) })
	defer gone.Stop()
	if err := box.Destroy(ctx); err != nil {
		t.Fatal(err)
	}
	if eq := e.Equipment(); len(eq.Faults) != 1 || eq.GPUs[0].Count != 7 {
		t.Errorf("given back too soon: %+v", eq)
	}
}

// TestUseIsCounted: how long GPUs worked, what they drew and held is the job's.
func TestUseIsCounted(t *testing.T) {
	s, machine := setUp(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	e, _ := watched(t, s)
	sp := spec(t, 2, gputest.Profile)
	box := sandbox(ctx, t, e, sp)
	machine.Set(t, driver.MockState{GPUs: map[int]driver.MockGPU{0: {PIDs: []int{1}, BusyPercent: 100, Watts: 400, MemoryMiB: 1000}, 1: {BusyPercent: 50, Watts: 200, MemoryMiB: 1000}}})
	use := func(s executor.Sandbox, enough time.Duration) nimbus.GPUSample {
		t.Helper()
		for {
			u, err := s.(executor.Accelerated).GPUUsage(ctx)
			if err == nil && u.Busy >= enough {
				return u
			}
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
				t.Fatalf("%+v, %v", u, err)
			}
		}
	}
	u := use(box, 4*time.Second)
	// 600 W while both work for 1.5 s a second; the first second may be idle's. How many
	// there are by now depends on the machine.
	want := 400 * u.Busy.Seconds()
	if joules := float64(u.Millijoules) / 1000; u.MemoryBytes != 2008<<20 || joules < want-300 || joules > want+600 {
		t.Errorf("%+v", u)
	}
	// The next agent goes on from there: at most some seconds are lost.
	other, _ := watched(t, s)
	again, err := other.Adopt(ctx, sp.ID, sp.Dir)
	if err != nil {
		t.Fatal(err)
	}
	use(again, 5*time.Second)
	machine.Set(t, driver.MockState{})
}

// TestSlices: jobs get slices of a GPU as GPUs of their own.
func TestSlices(t *testing.T) {
	s, machine := setUp(t)
	machine.Set(t, driver.MockState{MIG: map[int]int{0: 3, 1: 2}})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	e, _ := watched(t, s)
	want := []nimbus.GPUGroup{
		{Profile: gputest.SliceProfile, Model: "Mock NVIDIA A100-SXM4-40GB MIG 1g.5gb", MemoryMiB: 4864, Count: 5},
		{Profile: gputest.Profile, Model: "Mock NVIDIA A100-SXM4-40GB", MemoryMiB: 40960, Count: 6},
	}
	if diff := cmp.Diff(want, e.Equipment().GPUs); diff != "" {
		t.Error(diff)
	}
	// From the GPU with the fewest, so that the other may be had whole again.
	box := sandbox(ctx, t, e, spec(t, 1, gputest.SliceProfile))
	if out, _ := executortest.Do(ctx, t, box, "ls /dev | grep nvidia"); out != "nvidia1-0\nnvidiactl\n" {
		t.Errorf("the job sees %q", out)
	}
	if eq := e.Equipment(); len(eq.Faults) > 0 {
		t.Errorf("%+v", eq.Faults)
	}
}

// TestImages: who names a framework gets the image that is set for it.
func TestImages(t *testing.T) {
	s, _ := setUp(t)
	s.Images = map[string]string{"pytorch": imageName, "jax": "nimbus.test/other:1"}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	e, _ := watched(t, s)
	for _, word := range []string{"pytorch", "jax"} {
		if !slices.Contains(e.Equipment().Capabilities, word) {
			t.Errorf("the host doesn't tell of %s", word)
		}
	}
	with := func(image string, needs nimbus.Capabilities) executor.Spec {
		sp := spec(t, 1, gputest.Profile)
		sp.Class.Image, sp.Class.Needs = image, needs
		return sp
	}
	sandbox(ctx, t, e, with(nimbus.DefaultImage, "cuda-12 pytorch"))
	sandbox(ctx, t, e, with(imageName, "jax pytorch"))
	for says, sp := range map[string]executor.Spec{
		"no image for vllm":             with(nimbus.DefaultImage, "vllm"),
		"jax and pytorch have images":   with(nimbus.DefaultImage, "jax pytorch"),
		"is no name of a container ima": with("no-such-image", ""),
	} {
		_, err := e.Create(ctx, sp)
		t.Log(err, nimbus.ErrorHint(err))
		if err == nil || nimbus.ErrorHint(err) == "" {
			t.Errorf("%s: %v", says, err)
		}
		if !strings.HasPrefix(says, "is no") && !strings.Contains(err.Error(), says) {
			t.Errorf("it is told %v, want %q", err, says)
		}
	}
	if left := e.Equipment(); len(left.Faults) > 0 {
		t.Errorf("%+v", left)
	}
	s.Images = map[string]string{"fortran": "x"}
	if _, err := s.executor(); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
		t.Errorf("got %v", err)
	}
}

// described is a description of one device.
func described(kind string, edits map[string]any) map[string]any {
	return map[string]any{"cdiVersion": "0.5.0", "kind": kind, "devices": []any{map[string]any{"name": "0", "containerEdits": edits}}}
}

// TestWhyNot: a machine that can't have jobs with GPUs says why, and what would
// mend it.
func TestWhyNot(t *testing.T) {
	s, machine := setUp(t)
	hooks := "has programs run while a container is made"
	if len(machine.Flags(t)) > 0 {
		hooks = "" // the daemon can
	}
	for name, c := range map[string]struct {
		change func(*settings)
		says   string
	}{
		"no driver":      {func(*settings) { machine.Set(t, driver.MockState{Missing: 12}) }, "driver is not installed"},
		"not loaded":     {func(*settings) { machine.Set(t, driver.MockState{Missing: 9}) }, "not loaded"},
		"no helper":      {func(s *settings) { s.Program = "/nonexistent" }, "nimbus-nvml"},
		"another helper": {func(s *settings) { s.Program = "/bin/echo" }, "nimbus-nvml"},
		"no daemon":      {func(s *settings) { s.Containers.Host = "unix:///nonexistent" }, "docker daemon can't be reached"},
		"no description": {func(*settings) {
			machine.Describe(t, described("nimbus.test/gpu", map[string]any{"env": []string{"A=b"}}))
		}, "no description of GPU"},
		"programs are run": {func(*settings) {
			machine.Describe(t, described("nvidia.com/gpu", map[string]any{"hooks": []any{map[string]any{"hookName": "createContainer", "path": "/usr/bin/nvidia-ctk"}}}))
		}, hooks},
	} {
		t.Run(name, func(t *testing.T) {
			machine.Set(t, driver.MockState{})
			machine.Restore(t)
			changed := s
			c.change(&changed)
			e := create(t, changed)
			status := e.Status(t.Context())
			if status.Available != (c.says == "") || !strings.Contains(status.Detail, c.says) {
				t.Errorf("%+v", status)
			}
			if status.Available {
				return
			}
			t.Log(status.Detail, "|", status.Hint)
			if _, err := e.Create(t.Context(), spec(t, 1, gputest.Profile)); err == nil {
				t.Error("a job got one")
			}
		})
	}
}
