package nimbus

import "testing"

func TestClassIDTellsEveryFieldApart(t *testing.T) {
	t.Parallel()
	base := Class{Executor: "microvm", Image: "runner", Arch: "amd64", CPUs: 1, MemoryMiB: 1024, Network: NetworkInternet}
	seen := map[string]Class{base.ID(): base}
	for _, change := range []func(*Class){
		func(c *Class) { c.Executor = "local" },
		func(c *Class) { c.Image = "other" },
		func(c *Class) { c.Arch = "" },
		func(c *Class) { c.CPUs = 2 },
		func(c *Class) { c.MemoryMiB = 2048 },
		func(c *Class) { c.Network = NetworkNone },
		func(c *Class) { c.Network, c.Reach = NetworkNames, "a.com" },
		func(c *Class) { c.Network, c.Reach = NetworkNames, "a.com b.com" },
		func(c *Class) { c.GPUs = 1 },
		func(c *Class) { c.GPUProfile = "h100" },
		func(c *Class) { c.Needs = "h100" },
		func(c *Class) { c.Executor, c.Image = "microvm\" \"runner", "" },
	} {
		c := base
		change(&c)
		if other, ok := seen[c.ID()]; ok {
			t.Errorf("%v and %v have one id", c, other)
		}
		seen[c.ID()] = c
	}
}

// TestClassIDIsStable keeps the ids of classes that rows have: the queue is
// kept by them.
func TestClassIDIsStable(t *testing.T) {
	t.Parallel()
	c := Class{Executor: "microvm", Image: "runner", Arch: "amd64", CPUs: 1, MemoryMiB: 1024, Network: NetworkInternet}
	if got, want := c.ID(), "cls_40157800f9535f630c1b534f8d"; got != want {
		t.Errorf("the id is %s, was %s", got, want)
	}
}

// TestReachIsSaidOnce lays a class over another: who says the profile says the
// names, too.
func TestReachIsSaidOnce(t *testing.T) {
	t.Parallel()
	names := Class{Network: NetworkNames, Reach: "a.com"}
	for _, try := range []struct {
		over, under Class
		network     NetworkProfile
		reach       Names
	}{
		{Class{}, names, NetworkNames, "a.com"},
		{Class{Network: NetworkNone}, names, NetworkNone, ""},
		{Class{Network: NetworkInternet}, names, NetworkInternet, ""},
		{Class{Network: NetworkNames}, names, NetworkNames, "a.com"},
		{Class{Reach: "b.com"}, names, NetworkNames, "b.com"},
		{Class{Reach: "b.com"}, Class{Network: NetworkInternet}, NetworkNames, "b.com"},
		{names, Class{Network: NetworkNone}, NetworkNames, "a.com"},
	} {
		got, err := try.over.Or(try.under).Complete()
		if err != nil || got.Network != try.network || got.Reach != try.reach {
			t.Errorf("%+v over %+v: %q %q, %v", try.over, try.under, got.Network, got.Reach, err)
		}
	}
	for _, bad := range []Class{
		{Network: NetworkNames}, {Network: NetworkInternet, Reach: "a.com"}, {Network: NetworkNone, Reach: "a.com"}, {Reach: "*"}, {Network: "all"},
	} {
		if _, err := bad.Complete(); ErrorCode(err) != CodeInvalid {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// TestLeastMemory: what is too little to start with is refused before it waits
// for a host.
func TestLeastMemory(t *testing.T) {
	t.Parallel()
	for _, try := range []struct {
		executor string
		mib      int
		ok       bool
	}{
		{"", 127, false}, {"", 128, true}, {ExecutorMicroVM, 16, false}, {ExecutorMicroVM, 128, true}, {ExecutorFirecracker, 127, false},
		{ExecutorDocker, 7, false}, {ExecutorDocker, 8, true}, {ExecutorLocal, 1, false}, {ExecutorLocal, 8, true}, {ExecutorDocker, MaxMemoryMiB + 1, false},
		{ExecutorMicroVM, -1, false},
	} {
		_, err := Class{Executor: try.executor, MemoryMiB: try.mib}.Complete()
		if (err == nil) != try.ok || err != nil && (ErrorCode(err) != CodeInvalid || ErrorHint(err) == "") {
			t.Errorf("%q with %d MiB: %v; %s", try.executor, try.mib, err, ErrorHint(err))
		}
	}
}
