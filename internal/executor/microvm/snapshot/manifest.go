// Package snapshot keeps machines that were saved once they had booted, each
// in a folder of its own with a manifest of what it was made of. A snapshot is
// used as long as all of that is what it was; it appears whole or not at all.
package snapshot

import (
	"fmt"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Inputs are all that a snapshot depends on. It is comparable; digests are
// of Digest.
type Inputs struct {
	Image      string `json:"image"`
	Driver     string `json:"driver"`     // "qemu"
	Monitor    string `json:"monitor"`    // with its version, and how it runs guests
	Host       string `json:"host"`       // release of the host's kernel
	CPU        string `json:"cpu"`        // model of the host's processor
	CPUFlags   string `json:"cpu_flags"`  // digest of what it can do
	Kernel     string `json:"kernel"`     // digest
	Root       string `json:"root"`       // digest of the root file system
	Initrd     string `json:"initrd"`     // digest of the guest and the kernel's modules
	Parameters string `json:"parameters"` // of the kernel
	CPUs       int    `json:"cpus"`
	MemoryMiB  int    `json:"memory_mib"`
	DiskMiB    int    `json:"disk_mib"` // of the writable disk
}

// Name is the snapshot's name: one for each image and size. It is a file name
// where the image's is; see Store.
func (i Inputs) Name() string { return fmt.Sprintf("%s,%dcpu,%dMiB", i.Image, i.CPUs, i.MemoryMiB) }

// Check tells whether a snapshot that was made of i may be used where now is
// given. Codes: conflict, with each difference.
func (i Inputs) Check(now Inputs) error {
	var differences []string
	for _, field := range []struct {
		what       string
		then, here any
	}{
		{"image", i.Image, now.Image},
		{"driver", i.Driver, now.Driver},
		{"monitor", i.Monitor, now.Monitor},
		{"host kernel", i.Host, now.Host},
		{"processor", i.CPU, now.CPU},
		{"processor flags", i.CPUFlags, now.CPUFlags},
		{"guest kernel", i.Kernel, now.Kernel},
		{"root file system", i.Root, now.Root},
		{"guest and modules", i.Initrd, now.Initrd},
		{"kernel parameters", i.Parameters, now.Parameters},
		{"CPUs", i.CPUs, now.CPUs},
		{"memory MiB", i.MemoryMiB, now.MemoryMiB},
		{"disk MiB", i.DiskMiB, now.DiskMiB},
	} {
		if field.then != field.here {
			differences = append(differences, fmt.Sprintf("%s: made with %v, here is %v", field.what, field.then, field.here))
		}
	}
	if len(differences) == 0 {
		return nil
	}
	return refuse(i.Name(), strings.Join(differences, "; "))
}

// refuse says why a snapshot is not used.
func refuse(name, why string) error {
	return nimbus.Errorf(nimbus.CodeConflict, "the snapshot %s does not fit: %s", name, why).
		WithHint("make it again: nimbus snapshots create (the agent does so by itself)")
}

// Manifest says what a snapshot is.
type Manifest struct {
	Inputs

	CreatedAt time.Time `json:"created_at"`
	// Files are its files by name.
	Files map[string]File `json:"files"`
}

// File is a file as it was when the snapshot was made.
type File struct {
	Bytes  int64  `json:"bytes"`
	Digest string `json:"digest"`
	// Changed is when the inode changed last, in nanoseconds. Nobody can set
	// that: what it says of a file that was written to can't be undone.
	Changed int64 `json:"changed"`
}
