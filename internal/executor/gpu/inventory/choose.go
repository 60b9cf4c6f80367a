package inventory

import (
	"cmp"
	"slices"
)

// Choose picks n units for a job out of those that are free, all of one profile:
// those that are nearest to each other, by NVLink before PCIe, and of equally
// near ones those that leave the nearest together for others. It returns nil
// where there are not as many. Which it picks does not depend on their order.
func (i Inventory) Choose(free []Unit, profile string, n int) []Unit {
	units := slices.DeleteFunc(slices.Clone(free), func(u Unit) bool { return u.Profile != profile })
	if n < 1 || n > len(units) {
		return nil
	}
	slices.SortFunc(units, func(a, b Unit) int {
		return cmp.Or(cmp.Compare(a.GPU, b.GPU), cmp.Compare(a.Slice, b.Slice), cmp.Compare(a.ID, b.ID))
	})
	c := newChoice(units, i)
	var best []int
	if few(len(units), n) {
		best = c.all(n)
	} else {
		best = c.grown(n)
	}
	var chosen []Unit
	for _, k := range best {
		chosen = append(chosen, units[k])
	}
	return chosen
}

// maxSets bounds how many sets are looked at one by one: all of 16 GPUs.
const maxSets = 12870

// few tells whether n of m are chosen in at most maxSets ways.
func few(m, n int) bool {
	n = min(n, m-n)
	sets := 1
	for k := range n {
		sets = sets * (m - k) / (k + 1)
		if sets > maxSets {
			return false
		}
	}
	return true
}

// choice knows how near each two units are.
type choice struct {
	near [][]int
	sum  []int // of one to all others
}

func newChoice(units []Unit, i Inventory) *choice {
	between := map[[2]int]Link{}
	for _, l := range i.Links {
		between[[2]int{min(l.A, l.B), max(l.A, l.B)}] = l
	}
	numa := map[int]int{}
	for _, g := range i.GPUs {
		numa[g.Index] = g.NUMA
	}
	c := &choice{near: make([][]int, len(units)), sum: make([]int, len(units))}
	for a, ua := range units {
		c.near[a] = make([]int, len(units))
		for b, ub := range units {
			if a == b {
				continue
			}
			l := between[[2]int{min(ua.GPU, ub.GPU), max(ua.GPU, ub.GPU)}]
			if ua.GPU == ub.GPU {
				l.Level = LevelBoard
			}
			if ua.Slice >= 0 {
				l.NVLinks = 0 // slices don't use them
			}
			c.near[a][b] = nearness(l, numa[ua.GPU] >= 0 && numa[ua.GPU] == numa[ub.GPU])
			c.sum[a] += c.near[a][b]
		}
	}
	return c
}

// nearness makes one number of it: nothing that all pairs of a set have by PCIe
// makes up for one NVLink.
func nearness(l Link, oneNode bool) int {
	const node, level, nvlink = 1, 2, MaxGPUs * MaxGPUs * (2*LevelBoard + 1)
	n := nvlink*l.NVLinks + level*l.Level
	if oneNode {
		n += node
	}
	return n
}

// worth is how good a set is: how near to each other, and how far from what is
// left.
func (c *choice) worth(set []int) (inside, outside int) {
	for k, a := range set {
		outside += c.sum[a]
		for _, b := range set[k+1:] {
			inside += c.near[a][b]
		}
	}
	return inside, outside - 2*inside
}

// better tells whether a set is better than another one.
func (c *choice) better(a, b []int) bool {
	if b == nil {
		return true
	}
	insideA, outsideA := c.worth(a)
	insideB, outsideB := c.worth(b)
	return insideA > insideB || insideA == insideB && outsideA < outsideB
}

// all looks at every set of n.
func (c *choice) all(n int) (best []int) {
	set := make([]int, n)
	var place func(at, from int)
	place = func(at, from int) {
		if at == n {
			if c.better(set, best) {
				best = slices.Clone(set)
			}
			return
		}
		for k := from; k <= len(c.near)-(n-at); k++ {
			set[at] = k
			place(at+1, k+1)
		}
	}
	place(0, 0)
	return best
}

// grown begins with each unit and adds the nearest one after the other.
func (c *choice) grown(n int) (best []int) {
	for first := range c.near {
		set := []int{first}
		for len(set) < n {
			next, gain := -1, -1
			for k := range c.near {
				if slices.Contains(set, k) {
					continue
				}
				sum := 0
				for _, in := range set {
					sum += c.near[in][k]
				}
				if sum > gain || sum == gain && c.sum[k] < c.sum[next] {
					next, gain = k, sum
				}
			}
			set = append(set, next)
		}
		slices.Sort(set)
		if c.better(set, best) {
			best = set
		}
	}
	return best
}
