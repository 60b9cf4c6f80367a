package inventory_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/nimbus-ci/nimbus/internal/executor/gpu/inventory"
)

// machine draws a host with GPUs, some of them cut into slices.
func machine(t *rapid.T, most int) inventory.Inventory {
	var inv inventory.Inventory
	n := rapid.IntRange(1, most).Draw(t, "gpus")
	for k := range n {
		g := inventory.GPU{UUID: fmt.Sprintf("GPU-%d", k), Index: k, Model: rapid.SampledFrom([]string{"NVIDIA A", "NVIDIA B"}).Draw(t, "model"),
			NUMA: rapid.IntRange(-1, 1).Draw(t, "numa"), MIG: rapid.IntRange(0, 3).Draw(t, "mig") == 0}
		if g.MIG {
			for s := range rapid.IntRange(0, 3).Draw(t, "slices") {
				g.Slices = append(g.Slices, inventory.Slice{UUID: fmt.Sprintf("MIG-%d-%d", k, s), Index: s, Profile: "1g.5gb"})
			}
		}
		inv.GPUs = append(inv.GPUs, g)
		for other := range k {
			inv.Links = append(inv.Links, inventory.Link{A: k, B: other, NVLinks: rapid.SampledFrom([]int{0, 0, 4, 12}).Draw(t, "nvlinks"),
				Level: rapid.IntRange(inventory.LevelFar, inventory.LevelSingle).Draw(t, "level")})
		}
	}
	return inv
}

// nvlinks counts those inside a set.
func nvlinks(inv inventory.Inventory, set []inventory.Unit) (n int) {
	for _, l := range inv.Links {
		for _, a := range set {
			for _, b := range set {
				if a.GPU == l.A && b.GPU == l.B {
					n += l.NVLinks
				}
			}
		}
	}
	return n
}

// subsets are all sets of n.
func subsets(units []inventory.Unit, n int) (all [][]inventory.Unit) {
	for bits := range 1 << len(units) {
		var set []inventory.Unit
		for k := range units {
			if bits>>k&1 == 1 {
				set = append(set, units[k])
			}
		}
		if len(set) == n {
			all = append(all, set)
		}
	}
	return all
}

// TestChoose: a job gets as many as it asks for, of those that are free and
// alike, and no others are joined by more NVLinks.
func TestChoose(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		inv := machine(t, 8)
		units := inv.Units()
		free := slices.DeleteFunc(slices.Clone(units), func(inventory.Unit) bool { return rapid.IntRange(0, 3).Draw(t, "taken") == 0 })
		profile := rapid.SampledFrom([]string{"a", "b", "1g.5gb"}).Draw(t, "profile")
		n := rapid.IntRange(1, 5).Draw(t, "n")
		alike := slices.DeleteFunc(slices.Clone(free), func(u inventory.Unit) bool { return u.Profile != profile })

		chosen := inv.Choose(free, profile, n)
		if len(alike) < n {
			if chosen != nil {
				t.Fatalf("%d of %d: %v", n, len(alike), chosen)
			}
			return
		}
		seen := map[string]bool{}
		for _, u := range chosen {
			if seen[u.ID] || !slices.Contains(alike, u) {
				t.Fatalf("%v is not free, or there twice: %v", u, chosen)
			}
			seen[u.ID] = true
		}
		if len(chosen) != n {
			t.Fatalf("%d of %d", len(chosen), n)
		}
		if profile != "1g.5gb" {
			for _, set := range subsets(alike, n) {
				if nvlinks(inv, set) > nvlinks(inv, chosen) {
					t.Fatalf("%v has more NVLinks than %v", set, chosen)
				}
			}
		}
		if diff := cmp.Diff(chosen, inv.Choose(rapid.Permutation(free).Draw(t, "order"), profile, n)); diff != "" {
			t.Fatalf("another order gives another choice:\n%s", diff)
		}
	})
}

// TestChooseOfMany: where not all sets can be looked at, as many are found all
// the same.
func TestChooseOfMany(t *testing.T) {
	t.Parallel()
	inv := inventory.Inventory{}
	for k := range 64 {
		inv.GPUs = append(inv.GPUs, inventory.GPU{UUID: fmt.Sprintf("GPU-%d", k), Index: k, Model: "a", NUMA: k / 32})
		for other := range k {
			l := inventory.Link{A: other, B: k}
			if k/8 == other/8 {
				l.NVLinks = 12
			}
			inv.Links = append(inv.Links, l)
		}
	}
	chosen := inv.Choose(inv.Units(), "a", 8)
	if len(chosen) != 8 || nvlinks(inv, chosen) != 28*12 {
		t.Errorf("not one of the boards: %v", chosen)
	}
}

// pairs is a host of four GPUs: 0 and 1 are joined by NVLink, 2 and 3 are below
// one switch, all of them on one node but for the last.
func pairs() inventory.Inventory {
	inv := inventory.Inventory{Links: []inventory.Link{{A: 0, B: 1, NVLinks: 4, Level: inventory.LevelHostBridge}, {A: 3, B: 2, Level: inventory.LevelSingle}}}
	for k := range 4 {
		inv.GPUs = append(inv.GPUs, inventory.GPU{UUID: fmt.Sprintf("GPU-%d", k), Index: k, Model: "a", NUMA: k / 3})
	}
	return inv
}

func TestChoosesTheNearest(t *testing.T) {
	t.Parallel()
	inv := pairs()
	units := inv.Units()
	for name, c := range map[string]struct {
		free []int
		n    int
		want []int
	}{
		"NVLink before PCIe":              {[]int{3, 2, 1, 0}, 2, []int{0, 1}},
		"one switch before farther":       {[]int{1, 2, 3}, 2, []int{2, 3}},
		"one node before two":             {[]int{0, 2}, 2, []int{0, 2}},
		"a pair and whoever is near":      {[]int{0, 1, 2, 3}, 3, []int{0, 1, 2}},
		"one leaves pairs together":       {[]int{0, 1, 2}, 1, []int{2}},
		"one leaves NVLink, takes PCIe's": {[]int{0, 1, 2, 3}, 1, []int{3}},
		"all":                             {[]int{0, 1, 2, 3}, 4, []int{0, 1, 2, 3}},
	} {
		var free []inventory.Unit
		for _, k := range c.free {
			free = append(free, units[k])
		}
		var got []int
		for _, u := range inv.Choose(free, "a", c.n) {
			got = append(got, u.GPU)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
}

// TestSlicesFillUp: slices are taken from the GPU with the fewest that are free.
func TestSlicesFillUp(t *testing.T) {
	t.Parallel()
	inv := inventory.Inventory{}
	for k := range 2 {
		g := inventory.GPU{UUID: fmt.Sprintf("GPU-%d", k), Index: k, MIG: true, NUMA: -1}
		for s := range 3 - k {
			g.Slices = append(g.Slices, inventory.Slice{UUID: fmt.Sprintf("MIG-%d-%d", k, s), Index: s, Profile: "1g.5gb"})
		}
		inv.GPUs = append(inv.GPUs, g)
	}
	if got := inv.Choose(inv.Units(), "1g.5gb", 1); len(got) != 1 || got[0].GPU != 1 {
		t.Errorf("got %v", got)
	}
	if got := inv.Choose(inv.Units(), "1g.5gb", 3); len(got) != 3 || got[0].GPU != 0 || got[2].GPU != 0 {
		t.Errorf("got %v", got)
	}
}
