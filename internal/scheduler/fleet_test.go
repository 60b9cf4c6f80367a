package scheduler

import (
	"testing"

	"github.com/nimbus-ci/nimbus"
)

// TestFleetAsksAgain has a host come back with another inventory: whatever part
// of it changed, which classes it can run is not taken from before.
func TestFleetAsksAgain(t *testing.T) {
	class := nimbus.Class{Executor: nimbus.ExecutorDocker, Arch: "amd64", CPUs: 1, MemoryMiB: 512, Network: nimbus.NetworkNames, Reach: "example.com"}
	able := nimbus.Inventory{
		Arch: "amd64", CPUs: 8, MemoryMiB: 8192, Executors: []nimbus.ExecutorStatus{{Name: nimbus.ExecutorDocker, Available: true}},
		Network: nimbus.NetworkProfiles(),
	}
	for name, change := range map[string]func(*nimbus.Inventory){
		"its architecture":     func(i *nimbus.Inventory) { i.Arch = "arm64" },
		"its memory":           func(i *nimbus.Inventory) { i.MemoryMiB = 256 },
		"its executors":        func(i *nimbus.Inventory) { i.Executors = nil },
		"its network profiles": func(i *nimbus.Inventory) { i.Network = []nimbus.NetworkProfile{nimbus.NetworkNone} },
		"the names it reaches": func(i *nimbus.Inventory) { i.Reach = "nimbus.example" },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet()
			put := func(i nimbus.Inventory) {
				f.put(&HostRecord{Host: nimbus.Host{ID: "host_1", Inventory: i}})
			}
			put(able)
			if !f.able(class.ID(), class)["host_1"] {
				t.Fatal("it can't run the class to begin with")
			}
			less := able
			change(&less)
			put(less)
			if f.able(class.ID(), class)["host_1"] {
				t.Error("it is taken to run the class still")
			}
			put(able)
			if !f.able(class.ID(), class)["host_1"] {
				t.Error("it is not known to run the class again")
			}
		})
	}
}
