package nimbus

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Executor names. An executor gives a sandbox to a job.
const (
	ExecutorMicroVM     = "microvm"
	ExecutorFirecracker = "firecracker" // a microVM under Firecracker and nothing else
	ExecutorDocker      = "docker"
	ExecutorGPU         = "gpu"   // a container with GPUs of its own
	ExecutorLocal       = "local" // a process in its own namespaces: trusted code only
)

// Executors returns the names of all executors. Which of them a host has, it
// tells in its Inventory.
func Executors() []string {
	return []string{ExecutorMicroVM, ExecutorFirecracker, ExecutorDocker, ExecutorGPU, ExecutorLocal}
}

// DefaultImage is the image of a job that names none.
const DefaultImage = "runner"

// Sizes of a job that names none, and the most that a label may ask for.
const (
	DefaultCPUs      = 1
	DefaultMemoryMiB = 1024
	MaxCPUs          = 512
	MaxMemoryMiB     = 4 << 20
	MinMachineMiB    = 128 // of memory for a microVM: with 80 its kernel doesn't boot, with 96 a job has 12 left, with 128 it has 40
	MinProcessMiB    = 8   // of memory for what shares its host's kernel
	MaxGPUs          = 64
	MaxCapabilities  = 16 // that a job may need
	MaxWordBytes     = 64 // of the name of a capability, GPU profile or piece of metadata
)

// Class is the set of requirements that makes jobs interchangeable for
// placement. Two jobs with equal classes can run on the same sandbox. It is
// comparable, and stored as JSON: fields are added with omitempty.
type Class struct {
	Executor  string // "" means: the best that a live host offers, see scheduler
	Image     string
	Arch      string // "amd64", "arm64", "" for any
	CPUs      int
	MemoryMiB int
	Network   NetworkProfile

	GPUs       int          `json:",omitempty"`
	GPUProfile string       `json:",omitempty"` // a model or a slice of one, "" for any; all of a job's are alike
	Needs      Capabilities `json:",omitempty"`

	Reach Names `json:",omitempty"` // of the network profile "names"
}

// Capabilities is a set of words, each something that a host has or hasn't:
// sorted, separated by spaces.
type Capabilities string

// CapabilitiesOf makes a set of words. Codes: invalid.
func CapabilitiesOf(words ...string) (Capabilities, error) {
	set := slices.Clone(words)
	slices.Sort(set)
	set = slices.Compact(set)
	for _, word := range set {
		if !validWord(word) {
			return "", Errorf(CodeInvalid, "%q is not the name of a capability", clip(word)).
				WithHint("it has lower case letters, digits and ._- only, and at most %d of them", MaxWordBytes)
		}
	}
	if len(set) > MaxCapabilities {
		return "", Errorf(CodeInvalid, "a job can need at most %d capabilities", MaxCapabilities)
	}
	return Capabilities(strings.Join(set, " ")), nil
}

// Words are the capabilities one by one.
func (c Capabilities) Words() []string { return strings.Fields(string(c)) }

// NetworkProfile is what a sandbox may reach.
type NetworkProfile string

// The profiles. All also reach the gateway's listed ports.
const (
	NetworkInternet NetworkProfile = "internet" // public addresses only: never private, link-local, metadata or the host
	NetworkNames    NetworkProfile = "names"    // of those, what the names in Class.Reach stand for
	NetworkNone     NetworkProfile = "none"     // the gateway only
)

// NetworkProfiles returns all profiles, the widest first.
func NetworkProfiles() []NetworkProfile {
	return []NetworkProfile{NetworkInternet, NetworkNames, NetworkNone}
}

// ID is a stable name of the class, made of what is in it. Fields that came
// later count only where they are set, so that older ids stay what they were.
func (c Class) ID() string {
	parts := []string{c.Executor, c.Image, c.Arch, strconv.Itoa(c.CPUs), strconv.Itoa(c.MemoryMiB), string(c.Network)}
	if c.GPUs != 0 || c.GPUProfile != "" || c.Needs != "" {
		parts = append(parts, strconv.Itoa(c.GPUs), c.GPUProfile, string(c.Needs))
	}
	if c.Reach != "" {
		parts = append(parts, "reach", string(c.Reach))
	}
	quoted := []byte{'['} // as fmt's %q of the parts: ids are in the books
	for i, part := range parts {
		if i > 0 {
			quoted = append(quoted, ' ')
		}
		quoted = strconv.AppendQuote(quoted, part)
	}
	sum := sha256.Sum256(append(quoted, ']'))
	return "cls_" + hex.EncodeToString(sum[:13])
}

// String is the class in words: "microvm runner 1 cpu 1024 MiB".
func (c Class) String() string {
	words := []string{c.Executor, c.Image, fmt.Sprintf("%d cpu", c.CPUs), fmt.Sprintf("%d MiB", c.MemoryMiB)}
	if c.GPUs > 0 {
		words = append(words, strings.TrimSpace(fmt.Sprintf("%d gpu %s", c.GPUs, c.GPUProfile)))
	}
	if c.Arch != "" {
		words = append(words, c.Arch)
	}
	words = append(words, c.Needs.Words()...)
	switch c.Network {
	case NetworkInternet:
	case NetworkNames:
		words = append(words, "reaching "+c.Reach.String())
	default:
		words = append(words, "network:"+string(c.Network))
	}
	return strings.TrimSpace(strings.Join(words, " "))
}

// Or returns the class with the fields of another where nothing is set.
func (c Class) Or(other Class) Class {
	// What it may reach is said by both fields, or by neither.
	network, reach := c.Network, c.Reach
	if network == "" && reach == "" {
		network = other.Network
	}
	if network == "" || network == NetworkNames {
		reach = cmp.Or(reach, other.Reach)
	}
	return Class{
		Executor: cmp.Or(c.Executor, other.Executor), Image: cmp.Or(c.Image, other.Image), Arch: cmp.Or(c.Arch, other.Arch),
		CPUs: cmp.Or(c.CPUs, other.CPUs), MemoryMiB: cmp.Or(c.MemoryMiB, other.MemoryMiB), Network: network, Reach: reach,
		GPUs: cmp.Or(c.GPUs, other.GPUs), GPUProfile: cmp.Or(c.GPUProfile, other.GPUProfile), Needs: cmp.Or(c.Needs, other.Needs),
	}
}

// Complete returns the class with the defaults where nothing is set. It keeps
// an empty executor, which the scheduler chooses. Codes: invalid.
func (c Class) Complete() (Class, error) {
	c.Image = cmp.Or(c.Image, DefaultImage)
	c.CPUs = cmp.Or(c.CPUs, DefaultCPUs)
	c.MemoryMiB = cmp.Or(c.MemoryMiB, DefaultMemoryMiB)
	if c.Network == "" && c.Reach != "" {
		c.Network = NetworkNames
	}
	c.Network = cmp.Or(c.Network, NetworkInternet)
	if c.Executor == "" && (c.GPUs > 0 || c.GPUProfile != "") {
		c.Executor = ExecutorGPU
	}
	if c.Executor == ExecutorGPU {
		c.GPUs = cmp.Or(c.GPUs, 1)
	}
	var err error
	if c.Needs, err = CapabilitiesOf(c.Needs.Words()...); err != nil {
		return Class{}, err
	}
	if c.Reach, err = NamesOf(c.Reach.Words()...); err != nil {
		return Class{}, err
	}
	return c, c.check()
}

func (c Class) check() error {
	switch {
	case c.Executor != "" && !slices.Contains(Executors(), c.Executor):
		return Errorf(CodeInvalid, "there is no executor %q", clip(c.Executor)).
			WithHint("the executors are %s", strings.Join(Executors(), ", "))
	case !IsImageName(c.Image):
		return Errorf(CodeInvalid, "%q is not an image name", clip(c.Image))
	case c.Arch != "" && c.Arch != "amd64" && c.Arch != "arm64":
		return Errorf(CodeInvalid, "there is no architecture %q", clip(c.Arch)).WithHint("use amd64 or arm64")
	case c.CPUs < 1 || c.CPUs > MaxCPUs:
		return Errorf(CodeInvalid, "a job can have 1 to %d CPUs, not %d", MaxCPUs, c.CPUs)
	case c.MemoryMiB < c.minMemoryMiB() || c.MemoryMiB > MaxMemoryMiB:
		return Errorf(CodeInvalid, "a job of the executor %s can have %d to %d MiB of memory, not %d", cmp.Or(c.Executor, ExecutorMicroVM), c.minMemoryMiB(), MaxMemoryMiB, c.MemoryMiB).
			WithHint("%d is the default; in labels memory is in GiB, memory:2, and to nimbus run in MiB, --memory 2048", DefaultMemoryMiB)
	case c.GPUs < 0 || c.GPUs > MaxGPUs:
		return Errorf(CodeInvalid, "a job can have up to %d GPUs, not %d", MaxGPUs, c.GPUs)
	case c.GPUProfile != "" && !validWord(c.GPUProfile):
		return Errorf(CodeInvalid, "%q is not a GPU profile", clip(c.GPUProfile))
	case c.Executor != ExecutorGPU && (c.GPUs > 0 || c.GPUProfile != ""):
		return Errorf(CodeInvalid, "the executor %s gives no GPUs", c.Executor).WithHint("use the executor %s", ExecutorGPU)
	}
	return c.checkNetwork()
}

// minMemoryMiB is what a sandbox takes to start at all. A job that leaves its
// executor open may get a microVM.
func (c Class) minMemoryMiB() int {
	switch c.Executor {
	case "", ExecutorMicroVM, ExecutorFirecracker:
		return MinMachineMiB
	}
	return MinProcessMiB
}

func (c Class) checkNetwork() error {
	switch {
	case !slices.Contains(NetworkProfiles(), c.Network):
		return Errorf(CodeInvalid, "there is no network profile %q", clip(string(c.Network))).
			WithHint("the profiles are %s, %s and %s", NetworkInternet, NetworkNames, NetworkNone)
	case c.Network == NetworkNames && c.Reach == "":
		return Errorf(CodeInvalid, "network:%s reaches nothing without a name: add reach:NAME for each, or use network:%s", NetworkNames, NetworkNone)
	case c.Network != NetworkNames && c.Reach != "":
		return Errorf(CodeInvalid, "network:%s and the names to reach (%s) contradict each other", c.Network, c.Reach).
			WithHint("names are for network:%s", NetworkNames)
	case len(c.Reach.Words()) > MaxReach:
		return Errorf(CodeInvalid, "a job can ask to reach at most %d names", MaxReach).
			WithHint("*.example.com stands for all below example.com")
	}
	return nil
}

// MaxImageNameBytes bounds the name of an image in a label.
const MaxImageNameBytes = 200

// IsImageName tells whether a label can name an image so: what an OCI reference
// may hold, in lower case as labels are compared, without the path tricks. They
// become file names on hosts.
func IsImageName(name string) bool {
	if name == "" || len(name) > MaxImageNameBytes || strings.Contains(name, "..") {
		return false
	}
	for i, r := range name {
		alnum := r >= 'a' && r <= 'z' || r >= '0' && r <= '9'
		if !alnum && (i == 0 || !strings.ContainsRune("._-/:@", r)) {
			return false
		}
	}
	return true
}

// validWord keeps the names of capabilities, GPU profiles and metadata to what
// needs no quotes anywhere: lower case letters, digits and "._-".
func validWord(word string) bool {
	if word == "" || len(word) > MaxWordBytes {
		return false
	}
	for i, r := range word {
		alnum := r >= 'a' && r <= 'z' || r >= '0' && r <= '9'
		if !alnum && (i == 0 || !strings.ContainsRune("._-", r)) {
			return false
		}
	}
	return true
}
