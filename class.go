package nimbus

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// Executor names. An executor gives a sandbox to a job.
const (
	ExecutorMicroVM = "microvm"
	ExecutorLocal   = "local" // a process in its own namespaces: trusted code only
)

// DefaultImage is the image of a job that names none.
const DefaultImage = "runner"

// Sizes of a job that names none, and the most that a label may ask for.
const (
	DefaultCPUs      = 1
	DefaultMemoryMiB = 1024
	MaxCPUs          = 512
	MaxMemoryMiB     = 4 << 20
)

// Class is the set of requirements that makes jobs interchangeable for
// placement. Two jobs with equal classes can run on the same sandbox.
type Class struct {
	Executor  string // "" means: the best that a live host offers, see scheduler
	Image     string
	Arch      string // "amd64", "arm64", "" for any
	CPUs      int
	MemoryMiB int
	Network   NetworkProfile
}

// NetworkProfile is what a sandbox may reach.
type NetworkProfile string

// The profiles. Both also reach the gateway's listed ports.
const (
	NetworkInternet NetworkProfile = "internet" // public addresses only: never private, link-local, metadata or the host
	NetworkNone     NetworkProfile = "none"     // the gateway only
)

// ID is a stable name of the class, made of what is in it.
func (c Class) ID() string {
	sum := sha256.Sum256([]byte(fmt.Sprintf("%q", []string{
		c.Executor, c.Image, c.Arch, strconv.Itoa(c.CPUs), strconv.Itoa(c.MemoryMiB), string(c.Network),
	})))
	return "cls_" + hex.EncodeToString(sum[:13])
}

// String is the class in words: "microvm runner 1 cpu 1024 MiB".
func (c Class) String() string {
	words := []string{c.Executor, c.Image, fmt.Sprintf("%d cpu", c.CPUs), fmt.Sprintf("%d MiB", c.MemoryMiB)}
	if c.Arch != "" {
		words = append(words, c.Arch)
	}
	if c.Network != NetworkInternet {
		words = append(words, "network:"+string(c.Network))
	}
	return strings.TrimSpace(strings.Join(words, " "))
}

// Complete returns the class with the defaults where nothing is set. It keeps
// an empty executor, which the scheduler chooses. Codes: invalid.
func (c Class) Complete() (Class, error) {
	c.Image = cmp.Or(c.Image, DefaultImage)
	c.CPUs = cmp.Or(c.CPUs, DefaultCPUs)
	c.MemoryMiB = cmp.Or(c.MemoryMiB, DefaultMemoryMiB)
	c.Network = cmp.Or(c.Network, NetworkInternet)
	switch {
	case c.Executor != "" && c.Executor != ExecutorMicroVM && c.Executor != ExecutorLocal:
		return Class{}, Errorf(CodeInvalid, "there is no executor %q", clip(c.Executor)).
			WithHint("the executors are %s and %s", ExecutorMicroVM, ExecutorLocal)
	case !validImage(c.Image):
		return Class{}, Errorf(CodeInvalid, "%q is not an image name", clip(c.Image))
	case c.Arch != "" && c.Arch != "amd64" && c.Arch != "arm64":
		return Class{}, Errorf(CodeInvalid, "there is no architecture %q", clip(c.Arch)).WithHint("use amd64 or arm64")
	case c.CPUs < 1 || c.CPUs > MaxCPUs:
		return Class{}, Errorf(CodeInvalid, "a job can have 1 to %d CPUs, not %d", MaxCPUs, c.CPUs)
	case c.MemoryMiB < 1 || c.MemoryMiB > MaxMemoryMiB:
		return Class{}, Errorf(CodeInvalid, "a job can have 1 to %d MiB of memory, not %d", MaxMemoryMiB, c.MemoryMiB)
	case c.Network != NetworkInternet && c.Network != NetworkNone:
		return Class{}, Errorf(CodeInvalid, "there is no network profile %q", clip(string(c.Network))).
			WithHint("the profiles are %s and %s", NetworkInternet, NetworkNone)
	}
	return c, nil
}

// OwnLabel is the label that makes a GitHub job ours. Jobs without it are
// somebody else's and are ignored politely.
const OwnLabel = "nimbus"

// LabelError tells why labels make no class.
type LabelError struct {
	Reason Reason
}

// Error returns the sentence.
func (e *LabelError) Error() string { return e.Reason.Message }

// ParseLabels turns runs-on labels into a class. Labels are compared without
// case, as GitHub does. Unknown or contradictory ones give a *LabelError whose
// reason is shown to the person who pushed.
func ParseLabels(labels []string) (Class, error) {
	c := Class{Image: DefaultImage, CPUs: DefaultCPUs, MemoryMiB: DefaultMemoryMiB, Network: NetworkInternet}
	seen := map[string]string{} // what a label decides -> the label that decided it
	for _, label := range labels {
		key, err := c.apply(label)
		if err != nil {
			return Class{}, err
		}
		if key == "" {
			continue
		}
		if before, ok := seen[key]; ok && !strings.EqualFold(before, label) {
			return Class{}, &LabelError{Reason{ReasonContradiction, fmt.Sprintf(
				"runs-on has both %q and %q: a job can have only one %s", clip(before), clip(label), key)}}
		}
		seen[key] = label
	}
	return c, nil
}

// apply sets what one label asks for and returns what it decides, "" for a
// label that decides nothing.
func (c *Class) apply(label string) (decides string, err error) {
	word, value, hasValue := strings.Cut(strings.ToLower(strings.TrimSpace(label)), ":")
	if hasValue {
		return c.applyValue(label, word, value)
	}
	switch word {
	case OwnLabel, "self-hosted", "linux":
		return "", nil
	case "x64", "amd64":
		c.Arch = "amd64"
		return "architecture", nil
	case "arm64":
		c.Arch = "arm64"
		return "architecture", nil
	case ExecutorMicroVM, ExecutorLocal:
		c.Executor = word
		return "executor", nil
	}
	return "", unknownLabel(label)
}

func (c *Class) applyValue(label, word, value string) (decides string, err error) {
	switch word {
	case "image":
		if !validImage(value) {
			return "", unknownLabel(label)
		}
		c.Image = value
		return "image", nil
	case "cpu":
		c.CPUs, err = labelNumber(label, value, MaxCPUs)
		return "number of CPUs", err
	case "memory":
		gib, err := labelNumber(label, value, MaxMemoryMiB/1024)
		c.MemoryMiB = gib * 1024
		return "memory size", err
	case "network":
		switch p := NetworkProfile(value); p {
		case NetworkInternet, NetworkNone:
			c.Network = p
			return "network profile", nil
		}
	}
	return "", unknownLabel(label)
}

// validImage keeps image names to what an OCI reference may hold, without the
// path tricks: they become file names on hosts.
func validImage(name string) bool {
	if name == "" || len(name) > 200 || strings.Contains(name, "..") {
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

func labelNumber(label, value string, most int) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > most {
		return 0, &LabelError{Reason{ReasonUnknownLabel, fmt.Sprintf(
			"label %q wants a whole number from 1 to %d after the colon", clip(label), most)}}
	}
	return n, nil
}

func unknownLabel(label string) error {
	return &LabelError{Reason{ReasonUnknownLabel, fmt.Sprintf(
		"label %q means nothing to Nimbus; it knows nimbus, self-hosted, linux, x64, arm64, microvm, local, image:NAME, cpu:N, memory:GIB, network:internet, network:none",
		clip(label))}}
}
