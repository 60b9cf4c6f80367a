// Package inventory is what is known of a host's GPUs, and what follows from it:
// the words that jobs ask for them with, which of them are fit for work, and
// which a job gets. It decides and does nothing, so that both ends of the helper
// nimbus-nvml, which reads all this, share it; see protocol.go.
package inventory

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/nimbus-ci/nimbus"
)

// Inventory is the GPUs of a host.
type Inventory struct {
	Driver string `json:"driver"`
	// CUDAMajor and CUDAMinor are the newest CUDA that the driver runs.
	CUDAMajor int    `json:"cuda_major"`
	CUDAMinor int    `json:"cuda_minor"`
	GPUs      []GPU  `json:"gpus"`
	Links     []Link `json:"links,omitempty"` // between each two of them
}

// GPU is one that is in the host.
type GPU struct {
	UUID      string `json:"uuid"`
	Index     int    `json:"index"` // as the driver counts
	Model     string `json:"model"`
	MemoryMiB int    `json:"memory_mib"`
	// Major and Minor are its compute capability.
	Major int    `json:"major"`
	Minor int    `json:"minor"`
	Bus   string `json:"bus,omitempty"` // its PCI address
	NUMA  int    `json:"numa"`          // the node of processors that it is nearest to, -1 where that isn't known
	// MIG says that it is cut into slices: the whole of it is then nobody's.
	MIG    bool    `json:"mig,omitempty"`
	Slices []Slice `json:"slices,omitempty"`

	Condition Condition `json:"condition"`
}

// Slice is a part of a GPU that works as one of its own.
type Slice struct {
	UUID      string `json:"uuid"`
	Index     int    `json:"index"`   // within its GPU
	Profile   string `json:"profile"` // "1g.10gb"
	MemoryMiB int    `json:"memory_mib"`
}

// Link is how two GPUs are connected.
type Link struct {
	A       int `json:"a"` // indices
	B       int `json:"b"`
	NVLinks int `json:"nvlinks,omitempty"` // how many join them
	Level   int `json:"level"`             // how near they are by PCIe
}

// Levels of a Link, the farthest first.
const (
	LevelFar        = iota // by the link between processors
	LevelNode              // below one node of processors
	LevelHostBridge        // below one host bridge
	LevelMultiple          // several switches between them
	LevelSingle            // one switch between them
	LevelBoard             // on one board
)

// Unit is what a job gets one of: a GPU, or a slice of one.
type Unit struct {
	ID        string // its UUID
	GPU       int    // the index of the GPU that it is, or is of
	Slice     int    // its index there, -1 for a whole GPU
	Profile   string // the word that it is asked for with
	Model     string
	MemoryMiB int
}

// Units are what there is to be given out.
func (i Inventory) Units() (units []Unit) {
	for _, g := range i.GPUs {
		if !g.MIG {
			units = append(units, Unit{ID: g.UUID, GPU: g.Index, Slice: -1, Profile: Profile(g.Model), Model: g.Model, MemoryMiB: g.MemoryMiB})
			continue
		}
		for _, s := range g.Slices {
			units = append(units, Unit{ID: s.UUID, GPU: g.Index, Slice: s.Index, Profile: s.Profile, Model: g.Model + " MIG " + s.Profile, MemoryMiB: s.MemoryMiB})
		}
	}
	return units
}

// GPU finds one by its index.
func (i Inventory) GPU(index int) (GPU, bool) {
	n := slices.IndexFunc(i.GPUs, func(g GPU) bool { return g.Index == index })
	if n < 0 {
		return GPU{}, false
	}
	return i.GPUs[n], true
}

// Groups are units that are alike, as a host tells of them.
func Groups(units []Unit) (groups []nimbus.GPUGroup) {
	for _, u := range units {
		n := slices.IndexFunc(groups, func(g nimbus.GPUGroup) bool { return g.Profile == u.Profile })
		if n < 0 {
			n, groups = len(groups), append(groups, nimbus.GPUGroup{Profile: u.Profile, Model: u.Model, MemoryMiB: u.MemoryMiB})
		}
		groups[n].MemoryMiB = min(groups[n].MemoryMiB, u.MemoryMiB)
		groups[n].Count++
	}
	slices.SortFunc(groups, func(a, b nimbus.GPUGroup) int { return cmp.Compare(a.Profile, b.Profile) })
	return groups
}

// Profile makes a word of a model: "NVIDIA H100 80GB HBM3" is "h100-80gb-hbm3".
func Profile(model string) string {
	words := strings.FieldsFunc(strings.ToLower(model), func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') })
	if len(words) > 0 && words[0] == "nvidia" {
		words = words[1:]
	}
	word := strings.Join(words, "-")
	return strings.TrimRight(word[:min(len(word), nimbus.MaxWordBytes)], "-")
}

// firstCUDA is the oldest that is told of: what is older no image is made for.
const firstCUDA = 11

// Capabilities are the words that a host with these GPUs serves. A driver runs
// what was made for any CUDA up to its own. What a GPU's architecture is called
// by is told only where all of them have it: a job that asks for it gets any.
func (i Inventory) Capabilities() (words []string) {
	if len(i.GPUs) == 0 {
		return nil
	}
	words = append(words, "cuda")
	for major := firstCUDA; major <= min(i.CUDAMajor, maxCUDA); major++ {
		words = append(words, fmt.Sprintf("cuda-%d", major))
	}
	for minor := range min(i.CUDAMinor, maxCUDA) + 1 {
		words = append(words, fmt.Sprintf("cuda-%d.%d", i.CUDAMajor, minor))
	}
	first := i.GPUs[0]
	if !slices.ContainsFunc(i.GPUs, func(g GPU) bool { return g.Major != first.Major || g.Minor != first.Minor }) {
		words = append(words, fmt.Sprintf("sm_%d%d", first.Major, first.Minor))
	}
	if slices.ContainsFunc(i.Links, func(l Link) bool { return l.NVLinks > 0 }) {
		words = append(words, "nvlink")
	}
	slices.Sort(words)
	return words
}
