package inventory

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/nimbus-ci/nimbus"
)

// Document is a line that nimbus-nvml writes: one of these. It writes an
// Inventory when it starts and each InventoryInterval, Usage each second, and an
// Event when there is one. It ends when its input does.
type Document struct {
	Inventory *Inventory `json:"inventory,omitempty"`
	Usage     *Usage     `json:"usage,omitempty"`
	Event     *Event     `json:"event,omitempty"`
	Failure   *Failure   `json:"failure,omitempty"` // and nothing more follows
}

// Usage is what all GPUs and slices do at a moment.
type Usage struct {
	// AtMillis only grows; it is no time of day.
	AtMillis int64    `json:"at_ms"`
	Samples  []Sample `json:"samples"`
}

// Event is an error that the driver tells of.
type Event struct {
	GPU string `json:"gpu"` // its UUID
	XID uint64 `json:"xid"`
}

// Failure is why there are no GPUs to be read.
type Failure struct {
	What string `json:"what"`
	Hint string `json:"hint"`
}

// Bounds of a document.
const (
	MaxDocument = 1 << 20
	MaxGPUs     = nimbus.MaxGPUs
	MaxSlices   = 8 // of a GPU
	MaxPIDs     = 64
	maxCUDA     = 99
)

// Reader reads documents.
type Reader struct{ lines *bufio.Scanner }

// NewReader reads from the output of the helper.
func NewReader(r io.Reader) *Reader {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4<<10), MaxDocument)
	return &Reader{lines}
}

// Next reads one. At the end it is io.EOF. What can't be believed is an error:
// the helper is ours, and of another version if it says something else.
func (r *Reader) Next() (Document, error) {
	if !r.lines.Scan() {
		if err := r.lines.Err(); err != nil {
			return Document{}, fmt.Errorf("read what nimbus-nvml says: %w", err)
		}
		return Document{}, io.EOF
	}
	d := Document{}
	dec := json.NewDecoder(bytes.NewReader(r.lines.Bytes()))
	if err := dec.Decode(&d); err != nil {
		return Document{}, fmt.Errorf("read what nimbus-nvml says: %w", err)
	}
	if err := d.check(); err != nil {
		return Document{}, fmt.Errorf("nimbus-nvml: %w", err)
	}
	return d, nil
}

// Write writes a document as a line.
func (d Document) Write(w io.Writer) error {
	raw, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("encode a document: %w", err)
	}
	if _, err := w.Write(append(raw, '\n')); err != nil {
		return fmt.Errorf("write a document: %w", err)
	}
	return nil
}

// check tells whether a document can be believed at all.
func (d Document) check() error {
	if d.Inventory != nil {
		if err := d.Inventory.check(); err != nil {
			return err
		}
	}
	if d.Usage != nil {
		if len(d.Usage.Samples) > MaxGPUs*(1+MaxSlices) {
			return errors.New("too many samples")
		}
		for _, s := range d.Usage.Samples {
			if !isID(s.ID) || s.MemoryBytes < 0 || s.BusyPercent < -1 || s.BusyPercent > 100 || s.PowerMilliwatts < 0 || s.EnergyMillijoules < 0 || len(s.PIDs) > MaxPIDs {
				return fmt.Errorf("%.64q is a sample that can't be", s.ID)
			}
		}
	}
	if d.Event != nil && !isID(d.Event.GPU) {
		return fmt.Errorf("%.64q is no GPU", d.Event.GPU)
	}
	return nil
}

func (i Inventory) check() error {
	if len(i.GPUs) > MaxGPUs || len(i.Links) > MaxGPUs*MaxGPUs {
		return errors.New("too many GPUs")
	}
	var ids []string
	for _, g := range i.GPUs {
		if g.MemoryMiB < 0 || len(g.Slices) > MaxSlices || len(g.Model) > nimbus.MaxLabelBytes || len(g.Bus) > nimbus.MaxWordBytes {
			return fmt.Errorf("GPU %d can't be", g.Index)
		}
		ids = append(ids, g.UUID)
		for _, s := range g.Slices {
			ids = append(ids, s.UUID)
			if s.MemoryMiB < 0 || len(s.Profile) > nimbus.MaxWordBytes {
				return fmt.Errorf("slice %d of GPU %d can't be", s.Index, g.Index)
			}
		}
	}
	if i := slices.IndexFunc(ids, func(id string) bool { return !isID(id) }); i >= 0 {
		return fmt.Errorf("%.64q is no GPU", ids[i])
	}
	slices.Sort(ids)
	if len(slices.Compact(ids)) != len(ids) {
		return errors.New("two GPUs are one")
	}
	return nil
}

// isID tells whether a UUID of the driver's may be the name of a file and of a
// device.
func isID(id string) bool {
	if id == "" || len(id) > nimbus.MaxWordBytes || id[0] == '-' {
		return false
	}
	for _, r := range id {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' {
			return false
		}
	}
	return true
}
