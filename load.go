package nimbus

import (
	"math"
	"strings"
)

// Load is how hard pressed a host is: shares of the time, in percent, in which
// work waited, as the kernel tells it (PSI), and of its disk. What the kernel
// does not tell is 0.
type Load struct {
	CPU    float64 `json:",omitempty"` // something waited for a CPU, of the last minute
	Memory float64 `json:",omitempty"` // everything waited for memory, of the last ten seconds
	IO     float64 `json:",omitempty"` // everything waited for a disk, of the last minute
	Disk   float64 `json:",omitempty"` // in use, of the disk with its sandboxes
	// Closed is what keeps the host from asking for jobs, "" for nothing, and Why
	// says so in a sentence.
	Closed Pressure `json:",omitempty"`
	Why    string   `json:",omitempty"`
}

// Pressure is what a host has too little of.
type Pressure string

// What a host can have too little of.
const (
	PressureCPU    Pressure = "cpu"
	PressureMemory Pressure = "memory"
	PressureIO     Pressure = "io"
	PressureDisk   Pressure = "disk"
)

// Pressures returns all of them.
func Pressures() []Pressure {
	return []Pressure{PressureCPU, PressureMemory, PressureIO, PressureDisk}
}

// Of is the share that tells of a pressure.
func (l Load) Of(p Pressure) float64 {
	switch p {
	case PressureCPU:
		return l.CPU
	case PressureMemory:
		return l.Memory
	case PressureIO:
		return l.IO
	case PressureDisk:
		return l.Disk
	}
	return 0
}

// maxWhy bounds the sentence.
const maxWhy = 200

// Check tells whether a load can be believed at all. Codes: invalid, too_large.
func (l Load) Check() error {
	for _, p := range Pressures() {
		if v := l.Of(p); math.IsNaN(v) || v < 0 || v > 100 {
			return Errorf(CodeInvalid, "%v can't be a share of the time in percent", v)
		}
	}
	known := l.Closed == ""
	for _, p := range Pressures() {
		known = known || l.Closed == p
	}
	switch {
	case !known:
		return Errorf(CodeInvalid, "a host can't have too little %q", clip(string(l.Closed)))
	case len(l.Why) > maxWhy:
		return Errorf(CodeTooLarge, "why a host asks for no jobs is said in %d bytes", maxWhy)
	case strings.ContainsFunc(l.Why, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return Errorf(CodeInvalid, "why a host asks for no jobs is no sentence")
	}
	return nil
}
