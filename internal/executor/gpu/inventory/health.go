package inventory

import (
	"fmt"
	"slices"
	"strings"
)

// Condition is what tells whether a GPU works as it should.
type Condition struct {
	// Lost is why the driver tells nothing more of it, "" while it does.
	Lost string `json:"lost,omitempty"`
	// UncorrectedECC counts errors of its memory that could not be corrected since
	// the driver was loaded.
	UncorrectedECC uint64 `json:"uncorrected_ecc,omitempty"`
	// RemapPending says that a bad row of its memory is replaced at the next reset,
	// RemapFailed that there is no spare row left.
	RemapPending bool `json:"remap_pending,omitempty"`
	RemapFailed  bool `json:"remap_failed,omitempty"`
	// Celsius is how hot it is, SlowdownCelsius from where on it slows down to
	// save itself; 0 where it isn't told.
	Celsius         int `json:"celsius,omitempty"`
	SlowdownCelsius int `json:"slowdown_celsius,omitempty"`
}

// coolBy is how much cooler one must be that was too hot.
const coolBy = 10

// Fault is why a GPU is not fit for a job, in words that follow its name, "" for
// one that is. They are the same from one moment to the next: each change of them
// is told. XIDs are the driver's errors that it has had, wasHot says that it
// was too hot when it was looked at last.
func (c Condition) Fault(xids []uint64, wasHot bool) string {
	for _, xid := range xids {
		if !OfPrograms(xid) {
			return fmt.Sprintf("has had the driver's error XID %d%s", xid, known(xid))
		}
	}
	switch {
	case c.Lost != "":
		return "can't be read: " + c.Lost
	case c.RemapFailed:
		return "has bad memory and no spare rows: replace it"
	case c.RemapPending:
		return "has bad memory that is replaced at its next reset"
	case c.UncorrectedECC > 0:
		return fmt.Sprintf("has had %d uncorrectable memory errors (ECC) since the driver was loaded", c.UncorrectedECC)
	case c.TooHot(wasHot):
		return fmt.Sprintf("is too hot: it slows down at %d °C, and comes back at %d °C", c.SlowdownCelsius, c.SlowdownCelsius-coolBy)
	}
	return ""
}

// TooHot tells whether a GPU is, or has not cooled down enough since it was.
func (c Condition) TooHot(was bool) bool {
	limit := c.SlowdownCelsius
	if was {
		limit -= coolBy
	}
	return c.SlowdownCelsius > 0 && c.Celsius >= limit
}

// OfPrograms tells whether an XID is a program's own fault: a bad address, a
// kernel that was ended. The GPU is as good as before.
//
// They are what https://docs.nvidia.com/deploy/xid-errors calls user application
// errors, and what NVIDIA's device plugin for Kubernetes passes over.
func OfPrograms(xid uint64) bool { return slices.Contains([]uint64{13, 31, 43, 45, 68, 109}, xid) }

// known says what some XIDs mean.
func known(xid uint64) string {
	switch xid {
	case 48, 63, 64, 92, 94, 95:
		return ": its memory"
	case 62, 119, 120:
		return ": its controller hangs"
	case 74:
		return ": its NVLink"
	case 79:
		return ": it has fallen off the bus"
	}
	return ""
}

// Sample is what a GPU or a slice does at a moment.
type Sample struct {
	ID string `json:"id"`
	// BusyPercent is for how much of the last moments it worked, -1 where that is
	// not told, as of slices.
	BusyPercent int   `json:"busy_percent"`
	MemoryBytes int64 `json:"memory_bytes"` // in use, without what the driver keeps for itself
	// PowerMilliwatts is what it draws, EnergyMillijoules what it has drawn since
	// the driver was loaded; 0 where it isn't told.
	PowerMilliwatts   int64  `json:"power_mw,omitempty"`
	EnergyMillijoules int64  `json:"energy_mj,omitempty"`
	PIDs              []int  `json:"pids,omitempty"` // of processes that use it
	Lost              string `json:"lost,omitempty"` // why it can't be read
}

// idleBytes is what an idle GPU may have in use: what the driver keeps is not
// told apart by old ones.
const idleBytes = 512 << 20

// Busy is what is left on a unit that no job has, in words that follow its name;
// "" for an idle one.
func (s Sample) Busy() string {
	const shown = 4
	switch {
	case s.Lost != "":
		return "can't be read: " + s.Lost
	case len(s.PIDs) > 0:
		words := strings.Trim(fmt.Sprint(s.PIDs[:min(len(s.PIDs), shown)]), "[]")
		if len(s.PIDs) > shown {
			words += " and others"
		}
		return "is in use by processes that are no job's: " + words
	case s.MemoryBytes > idleBytes:
		return fmt.Sprintf("has more than %d MiB of memory in use, and no job", idleBytes>>20)
	}
	return ""
}
