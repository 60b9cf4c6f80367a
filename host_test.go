package nimbus

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

func drawClass(t *rapid.T) Class {
	c := Class{CPUs: rapid.IntRange(1, 6).Draw(t, "cpus"), MemoryMiB: rapid.IntRange(1, 4096).Draw(t, "memory"),
		GPUs: rapid.SampledFrom([]int{0, 0, 1, 2, 4}).Draw(t, "gpus")}
	if c.GPUs > 0 {
		c.GPUProfile = rapid.SampledFrom([]string{"", "a100", "h100", "1g.10gb"}).Draw(t, "profile")
	}
	return c
}

// TestReservationsAreExact: whatever comes and goes, nothing is given twice,
// and when all is released everything is there again.
func TestReservationsAreExact(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		total := Inventory{CPUs: 16, MemoryMiB: 16 << 10, Sandboxes: 12,
			GPUs: []GPUGroup{{Profile: "a100", Count: 4}, {Profile: "h100", Count: 2}, {Profile: "1g.10gb", Count: 7}}}.Total()
		free := total
		var held []Reservation
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if len(held) > 0 && rapid.Bool().Draw(t, "release") {
				i := rapid.IntRange(0, len(held)-1).Draw(t, "which")
				free = free.Release(held[i])
				held = slices.Delete(held, i, i+1)
			} else {
				c := drawClass(t)
				before := maps.Clone(free.GPUs)
				r, left, ok := free.Reserve(c)
				if !cmp.Equal(before, free.GPUs) {
					t.Fatal("the capacity that was asked has changed")
				}
				if ok {
					checkReservation(t, c, r)
					free, held = left, append(held, r)
				} else if !cmp.Equal(free, left) {
					t.Fatal("a refusal took something")
				}
			}
			checkBooks(t, total, free, held)
		}
		for _, r := range held {
			free = free.Release(r)
		}
		if diff := cmp.Diff(total, free); diff != "" {
			t.Fatal(diff)
		}
	})
}

// checkReservation: a job gets what its class says, GPUs of one kind.
func checkReservation(t *rapid.T, c Class, r Reservation) {
	if r.CPUs != c.CPUs || r.MemoryMiB != c.MemoryMiB || r.GPUs != c.GPUs || c.GPUProfile != "" && r.GPUProfile != c.GPUProfile {
		t.Fatalf("%+v reserved %+v", c, r)
	}
}

// checkBooks: what is held and what is free is all there is, and neither is
// less than nothing.
func checkBooks(t *rapid.T, total, free Capacity, held []Reservation) {
	sum := free
	for _, r := range held {
		sum = sum.Release(r)
	}
	if diff := cmp.Diff(total, sum, cmpopts.EquateEmpty()); diff != "" {
		t.Fatal(diff)
	}
	if free.CPUs < 0 || free.MemoryMiB < 0 || free.Sandboxes < 0 || slices.Min(slices.Collect(maps.Values(free.GPUs))) < 0 {
		t.Fatalf("given twice: %+v", free)
	}
}

// TestReserveRefusesNothingThatFits: a host that could run a class at all
// takes it when it is empty.
func TestReserveRefusesNothingThatFits(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		inv := Inventory{CPUs: rapid.IntRange(1, 6).Draw(t, "has cpus"), MemoryMiB: rapid.IntRange(1, 4096).Draw(t, "has memory"), Sandboxes: 1,
			GPUs:      []GPUGroup{{Profile: "a100", Count: rapid.IntRange(0, 4).Draw(t, "a100")}, {Profile: "1g.10gb", Count: 1}},
			Executors: []ExecutorStatus{{Name: ExecutorGPU, Available: true}}}
		c := drawClass(t)
		c.Executor = ExecutorGPU
		if _, _, ok := inv.Total().Reserve(c); ok != inv.Serves(c) {
			t.Fatalf("%+v: serves %v: %v, has room: %v", inv, c, inv.Serves(c), ok)
		}
	})
}

func TestGPUsComeFromTheSmallestGroup(t *testing.T) {
	t.Parallel()
	free := Capacity{CPUs: 8, MemoryMiB: 8, Sandboxes: 8, GPUs: map[string]int{"a": 8, "b": 2, "c": 3, "h100-80gb": 9, "h1000": 2}}
	for _, try := range []struct {
		class Class
		want  string
	}{{Class{GPUs: 1}, "b"}, {Class{GPUs: 3}, "c"}, {Class{GPUs: 4}, "a"}, {Class{GPUs: 1, GPUProfile: "c"}, "c"},
		{Class{GPUs: 2, GPUProfile: "h100"}, "h100-80gb"}} {
		if r, _, ok := free.Reserve(try.class); !ok || r.GPUProfile != try.want {
			t.Errorf("%d GPUs %s come of %q, want %q", try.class.GPUs, try.class.GPUProfile, r.GPUProfile, try.want)
		}
	}
}

// TestWhyNotReach tries what hosts allow against what jobs ask for.
func TestWhyNotReach(t *testing.T) {
	t.Parallel()
	older := Inventory{}
	open := Inventory{Network: NetworkProfiles()}
	closed := Inventory{Network: []NetworkProfile{NetworkNone}}
	listed := Inventory{Network: []NetworkProfile{NetworkNames, NetworkNone}, Reach: "*.example.org github.com"}
	internet, none := Class{Network: NetworkInternet}, Class{Network: NetworkNone}
	names := func(n Names) Class { return Class{Network: NetworkNames, Reach: n} }
	for _, try := range []struct {
		host  Inventory
		class Class
		want  string
	}{
		{older, internet, ""}, {older, none, ""}, {older, Class{}, ""}, {older, names("a.com"), "allows no network:names"},
		{open, internet, ""}, {open, none, ""}, {open, names("a.com"), ""},
		{closed, internet, "allows no network:internet"}, {closed, Class{}, "allows no network:internet"}, {closed, none, ""},
		{listed, internet, "allows no network:internet"}, {listed, none, ""},
		{listed, names("github.com files.example.org"), ""}, {listed, names("*.example.org"), ""},
		{listed, names("github.com example.org"), "allows no reach:example.org"}, {listed, names("*.org"), "allows no reach:*.org"},
		{open, Class{Executor: ExecutorLocal, Network: NetworkInternet}, ""},
		{closed, Class{Executor: ExecutorLocal, Network: NetworkInternet}, "allows no network:internet"},
		{open, Class{Executor: ExecutorLocal, Network: NetworkNone}, "can't keep jobs of the executor local to network:none: they have the machine's own"},
	} {
		if got := try.host.WhyNotReach(try.class); got != try.want {
			t.Errorf("%v at a host with %v %q: %q, want %q", try.class, try.host.Network, try.host.Reach, got, try.want)
		}
	}
	for _, bad := range []Inventory{{Reach: "b.com a.com"}, {Reach: "*"}, {Network: []NetworkProfile{"a b"}}, {Network: make([]NetworkProfile, 17)}} {
		bad.CPUs, bad.MemoryMiB = 1, 1
		if err := bad.Check(); err == nil {
			t.Errorf("%v %q passed", bad.Network, bad.Reach)
		}
	}
}

func TestWhyNot(t *testing.T) {
	t.Parallel()
	inv := Inventory{Arch: "amd64", CPUs: 4, MemoryMiB: 4096, Capabilities: []string{"cuda", "kvm"},
		GPUs: []GPUGroup{{Profile: "a100", Count: 1}},
		Executors: []ExecutorStatus{{Name: ExecutorGPU, Available: true},
			{Name: ExecutorMicroVM, Available: true, Lacks: "avx512 kvm"}, {Name: ExecutorFirecracker, Available: true},
			{Name: ExecutorDocker, Detail: "no daemon", Hint: "start it"}}}
	for _, try := range []struct {
		class Class
		want  string
	}{
		{Class{Executor: ExecutorGPU, GPUs: 1, Needs: "cuda", Arch: "amd64"}, ""},
		{Class{Executor: ExecutorGPU, Arch: "arm64"}, "is amd64"},
		{Class{Executor: ExecutorGPU, CPUs: 8}, "has 4 CPUs"},
		{Class{Executor: ExecutorGPU, MemoryMiB: 8192}, "has 4096 MiB of memory"},
		{Class{Executor: ExecutorLocal}, "has no executor local"},
		{Class{Executor: ExecutorDocker}, "can't use docker: no daemon (start it)"},
		{Class{Executor: ExecutorGPU, Needs: "cuda pytorch"}, "has no pytorch"},
		{Class{Executor: ExecutorMicroVM, Needs: "kvm"}, "has kvm, but not for jobs of the executor microvm"},
		{Class{Executor: ExecutorMicroVM, Needs: "avx512"}, "has no avx512"},
		{Class{Executor: ExecutorMicroVM, Needs: "cuda"}, ""},
		{Class{Executor: ExecutorFirecracker, Needs: "kvm"}, ""},
		{Class{Executor: ExecutorGPU, GPUs: 2}, "has 1 GPUs alike"},
		{Class{Executor: ExecutorGPU, GPUs: 2, GPUProfile: "a100"}, "has 1 GPUs a100"},
		{Class{Executor: ExecutorGPU, GPUs: 1, GPUProfile: "h100"}, "has no GPU h100"},
	} {
		if got := inv.WhyNot(try.class); got != try.want {
			t.Errorf("%v: %q, want %q", try.class, got, try.want)
		}
	}
	for _, lacks := range []Capabilities{"kvm avx512", "KVM", "kvm  avx512"} {
		inv.Executors[1].Lacks = lacks
		if err := inv.Check(); ErrorCode(err) != CodeInvalid {
			t.Errorf("%q: %v", lacks, err)
		}
	}
}
