package nimbus

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// HostState is whether a host may get jobs.
type HostState string

// The host states. A host that did not heartbeat for a lease's length is away;
// it is ready again with its next heartbeat.
const (
	HostReady HostState = "ready"
	HostAway  HostState = "away"
)

// Host is a machine that runs jobs.
type Host struct {
	ID        string
	Name      string
	State     HostState
	Version   string // of its agent
	JoinedAt  time.Time
	SeenAt    time.Time
	Inventory Inventory
	Free      Capacity // as it said last, some seconds ago
	Running   int      // leases it holds
	Cordoned  bool     // gets no new jobs; what runs on it goes on
	// Runner is how its runner stands; zero where that was not asked for.
	Runner RunnerStanding
}

// Inventory is what a host says it has. It is sent at join and at each start
// of the agent. It is stored as JSON: fields are added with omitempty.
type Inventory struct {
	Arch      string // GOARCH
	CPUs      int
	MemoryMiB int
	Executors []ExecutorStatus

	CPUModel     string     `json:",omitempty"`
	GPUs         []GPUGroup `json:",omitempty"` // those that jobs can have
	GPUFaults    []GPUFault `json:",omitempty"` // those that they can't
	Capabilities []string   `json:",omitempty"` // words that a job can need
	Sandboxes    int        `json:",omitempty"` // how many it holds at most; 0: an agent that doesn't tell
	Protocol     int        `json:",omitempty"` // that its agent speaks, see CheckProtocol
	// GivesCPUs and GivesMemoryMiB are what it gives out in all, where that is
	// more than it has; 0: as much as it has.
	GivesCPUs      int `json:",omitempty"`
	GivesMemoryMiB int `json:",omitempty"`

	Network []NetworkProfile `json:",omitempty"` // that jobs may have here; none: an agent that doesn't tell
	Reach   Names            `json:",omitempty"` // that jobs may ask for here at most; none: any

	// RunnerVersion is of GitHub's own runner in the image that jobs get when
	// they name none; "" where it is not inside.
	RunnerVersion string `json:",omitempty"`

	Shells bool `json:",omitempty"` // its agent opens shells
}

// GPUGroup is GPUs of one kind: whole ones of a model, or slices of a size.
type GPUGroup struct {
	Profile   string // the word that a job asks for it with
	Model     string // as its maker calls it
	MemoryMiB int    // of each; 0 where it isn't known
	Count     int
}

// GPUFault is a GPU that no job gets.
type GPUFault struct {
	GPU string // its name: "GPU 3 of 0000:81:00.0"
	Why string // in words that follow it
}

// ExecutorStatus tells whether a host can use an executor, and if not why and
// what would mend it.
type ExecutorStatus struct {
	Name      string
	Available bool
	Detail    string // "QEMU 7.2.22, TCG" or why it can't
	Hint      string
	// Lacks are words of the host's capabilities that jobs of this executor don't
	// have: what the machine has is not always in its sandboxes.
	Lacks Capabilities `json:",omitempty"`
}

// Capacity is what a host has free at the time of a poll.
type Capacity struct {
	CPUs      int
	MemoryMiB int
	Sandboxes int            // how many more it may hold at all
	GPUs      map[string]int `json:",omitempty"` // by profile
	Warm      []string       `json:",omitempty"` // the id of its class for each sandbox that is ready
	Load      Load           `json:",omitzero"`
	Copies    CacheCopies    `json:",omitzero"` // told beside it
}

// Total is what a host has free when nothing runs on it.
func (i Inventory) Total() Capacity {
	c := Capacity{CPUs: max(i.CPUs, i.GivesCPUs), MemoryMiB: max(i.MemoryMiB, i.GivesMemoryMiB), Sandboxes: i.Sandboxes}
	for _, g := range i.GPUs {
		if c.GPUs == nil {
			c.GPUs = map[string]int{}
		}
		c.GPUs[g.Profile] += g.Count
	}
	return c
}

// Reservation is what a job takes of a host's capacity.
type Reservation struct {
	CPUs, MemoryMiB, GPUs int
	GPUProfile            string // which of them
}

// Reserve returns what a job of class c takes of the capacity and what is then
// left, or false where there is not room for it. GPUs are taken from the group
// with the fewest that are enough, so that large groups stay whole. A sandbox
// of the class that is ready is ready no more.
func (f Capacity) Reserve(c Class) (r Reservation, left Capacity, ok bool) {
	r = Reservation{CPUs: c.CPUs, MemoryMiB: c.MemoryMiB, GPUs: c.GPUs}
	if f.Sandboxes < 1 || c.CPUs > f.CPUs || c.MemoryMiB > f.MemoryMiB {
		return Reservation{}, f, false
	}
	if c.GPUs > 0 {
		if r.GPUProfile, ok = f.gpuGroup(c); !ok {
			return Reservation{}, f, false
		}
	}
	left = f.Take(r)
	if len(f.Warm) > 0 {
		if i := slices.Index(f.Warm, c.ID()); i >= 0 {
			left.Warm = slices.Delete(slices.Clone(f.Warm), i, i+1)
		}
	}
	return r, left, true
}

func (f Capacity) gpuGroup(c Class) (profile string, ok bool) {
	for _, p := range slices.Sorted(maps.Keys(f.GPUs)) {
		n := f.GPUs[p]
		if n >= c.GPUs && isProfile(c.GPUProfile, p) && (!ok || n < f.GPUs[profile]) {
			profile, ok = p, true
		}
	}
	return profile, ok
}

// isProfile tells whether a group of GPUs is what was asked for: anything, its
// profile, or the beginning of it, as h100 is of h100-80gb-hbm3.
func isProfile(asked, profile string) bool {
	return asked == "" || asked == profile || strings.HasPrefix(profile, asked+"-")
}

// Take returns the capacity without what is reserved, whether there is as much
// or not: what runs already can't be refused.
func (f Capacity) Take(r Reservation) Capacity { return f.add(r, -1) }

// Release returns the capacity with what was reserved.
func (f Capacity) Release(r Reservation) Capacity { return f.add(r, 1) }

func (f Capacity) add(r Reservation, sign int) Capacity {
	f.CPUs += sign * r.CPUs
	f.MemoryMiB += sign * r.MemoryMiB
	f.Sandboxes += sign
	if r.GPUs > 0 {
		f.GPUs = maps.Clone(f.GPUs)
		if f.GPUs == nil {
			f.GPUs = map[string]int{}
		}
		f.GPUs[r.GPUProfile] += sign * r.GPUs
	}
	return f
}

// Serves tells whether a host with this inventory could ever run class c.
func (i Inventory) Serves(c Class) bool { return i.WhyNot(c) == "" }

// WhyNot tells why a host with this inventory could never run class c, in words
// that follow its name; "" where it could.
func (i Inventory) WhyNot(c Class) string {
	switch {
	case c.Arch != "" && c.Arch != i.Arch:
		return "is " + i.Arch
	case c.CPUs > i.CPUs:
		return fmt.Sprintf("has %d CPUs", i.CPUs)
	case c.MemoryMiB > i.MemoryMiB:
		return fmt.Sprintf("has %d MiB of memory", i.MemoryMiB)
	}
	if why := i.whyNotExecutor(c.Executor); why != "" {
		return why
	}
	if why := i.WhyNotReach(c); why != "" {
		return why
	}
	if why := i.whyNotNeeds(c); why != "" {
		return why
	}
	return i.whyNotGPUs(c)
}

func (i Inventory) whyNotNeeds(c Class) string {
	for _, need := range c.Needs.Words() {
		if !slices.Contains(i.Capabilities, need) {
			return "has no " + need
		}
		for _, e := range i.Executors {
			if e.Name == c.Executor && slices.Contains(e.Lacks.Words(), need) {
				return fmt.Sprintf("has %s, but not for jobs of the executor %s", need, e.Name)
			}
		}
	}
	return ""
}

func (i Inventory) whyNotExecutor(name string) string {
	for _, e := range i.Executors {
		switch {
		case e.Name != name:
			continue
		case e.Available:
			return ""
		}
		why := "can't use " + e.Name
		if e.Detail != "" {
			why += ": " + clipTo(maxDetail, e.Detail)
		}
		if e.Hint != "" {
			why += " (" + clipTo(maxDetail, e.Hint) + ")"
		}
		return why
	}
	return "has no executor " + name
}

// olderNetwork are the profiles of agents that don't tell theirs.
var olderNetwork = []NetworkProfile{NetworkInternet, NetworkNone}

// WhyNotReach tells why a job of class c may not have the network here that it
// asks for, in words that follow the host's name; "" where it may.
func (i Inventory) WhyNotReach(c Class) string {
	asked, allowed := cmp.Or(c.Network, NetworkInternet), i.Network
	if len(allowed) == 0 {
		allowed = olderNetwork
	}
	switch {
	case c.Executor == ExecutorLocal && asked != NetworkInternet:
		return fmt.Sprintf("can't keep jobs of the executor %s to network:%s: they have the machine's own", ExecutorLocal, asked)
	case !slices.Contains(allowed, asked):
		return fmt.Sprintf("allows no network:%s", asked)
	case asked != NetworkNames || i.Reach == "":
		return ""
	}
	if name := i.Reach.Beyond(c.Reach); name != "" {
		return "allows no reach:" + clip(name)
	}
	return ""
}

func (i Inventory) whyNotGPUs(c Class) string {
	if c.GPUs == 0 {
		return ""
	}
	total := i.Total()
	if _, ok := total.gpuGroup(c); ok {
		return ""
	}
	most := 0
	for profile, n := range total.GPUs {
		if isProfile(c.GPUProfile, profile) {
			most = max(most, n)
		}
	}
	if most == 0 {
		why := strings.TrimSpace("has no GPU " + c.GPUProfile)
		if n := len(i.GPUFaults); n > 0 {
			why += fmt.Sprintf(" in service, and %d out of service", n)
		}
		return why
	}
	if c.GPUProfile == "" {
		return fmt.Sprintf("has %d GPUs alike", most)
	}
	return fmt.Sprintf("has %d GPUs %s", most, c.GPUProfile)
}

// Check tells whether an inventory can be believed at all. Codes: invalid,
// too_large.
func (i Inventory) Check() error {
	switch {
	case i.CPUs < 1 || i.MemoryMiB < 1:
		return Errorf(CodeInvalid, "a host without CPUs or memory can't run jobs")
	case len(i.Executors) > maxExecutors || len(i.GPUs) > maxGPUGroups || len(i.GPUFaults) > maxGPUFaults || len(i.Capabilities) > maxHostCapabilities:
		return Errorf(CodeTooLarge, "a host has at most %d executors, %d kinds of GPUs and %d capabilities",
			maxExecutors, maxGPUGroups, maxHostCapabilities)
	}
	if len(i.RunnerVersion) > MaxWordBytes || strings.ContainsFunc(i.RunnerVersion, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return Errorf(CodeInvalid, "%q is not the version of a runner", clip(i.RunnerVersion))
	}
	for _, word := range i.Capabilities {
		if !validWord(word) {
			return Errorf(CodeInvalid, "%q is not the name of a capability", clip(word))
		}
	}
	for _, e := range i.Executors {
		words := e.Lacks.Words() // as many as the host has, and not as few as a job may need
		if len(words) > maxHostCapabilities || !slices.IsSorted(words) || len(slices.Compact(words)) != len(e.Lacks.Words()) ||
			slices.ContainsFunc(words, func(word string) bool { return !validWord(word) }) {
			return Errorf(CodeInvalid, "what jobs of the executor %q lack is no set of words", clip(e.Name))
		}
	}
	for _, g := range i.GPUs {
		if !validWord(g.Profile) || g.Count < 0 || g.Count > MaxGPUs || len(g.Model) > MaxLabelBytes {
			return Errorf(CodeInvalid, "%d GPUs %q (%q) can't be", g.Count, clip(g.Profile), clip(g.Model))
		}
	}
	for _, f := range i.GPUFaults {
		if f.GPU == "" || len(f.GPU) > MaxLabelBytes || len(f.Why) > maxFault {
			return Errorf(CodeInvalid, "%q is no GPU that is out of service", clip(f.GPU))
		}
	}
	return i.checkReach()
}

// checkReach takes profiles that it does not know: the agent may be newer.
func (i Inventory) checkReach() error {
	if len(i.Network) > maxProfiles {
		return Errorf(CodeTooLarge, "a host has at most %d network profiles", maxProfiles)
	}
	for _, p := range i.Network {
		if !validWord(string(p)) {
			return Errorf(CodeInvalid, "%q is not the name of a network profile", clip(string(p)))
		}
	}
	if names, err := NamesOf(i.Reach.Words()...); err != nil || names != i.Reach {
		return errors.Join(Errorf(CodeInvalid, "the names that jobs may reach are no set of names"), err)
	}
	return nil
}

// Bounds of what a host tells.
const (
	maxExecutors        = 32
	maxGPUGroups        = 64
	maxGPUFaults        = MaxGPUs * 8 // as many as there are slices
	maxHostCapabilities = 256
	maxWarm             = 256
	maxProfiles         = 16
	maxDetail           = 200 // of what an executor tells, where it is repeated
	maxFault            = 512 // of why a GPU is out of service
)

// Check tells whether what a host says to have free can be believed at all.
// Codes: invalid, too_large.
func (f Capacity) Check() error {
	if len(f.GPUs) > maxGPUGroups || len(f.Warm) > maxWarm {
		return Errorf(CodeTooLarge, "a host has at most %d kinds of GPUs and %d warm classes", maxGPUGroups, maxWarm)
	}
	for _, id := range f.Warm {
		if len(id) > MaxWordBytes {
			return Errorf(CodeInvalid, "%q is not the id of a class", clip(id))
		}
	}
	for profile := range f.GPUs {
		if !validWord(profile) {
			return Errorf(CodeInvalid, "%q is not a GPU profile", clip(profile))
		}
	}
	if err := f.Copies.Check(); err != nil {
		return err
	}
	return f.Load.Check()
}

// IsWarm tells whether a sandbox of a class is ready.
func (f Capacity) IsWarm(classID string) bool { return slices.Contains(f.Warm, classID) }
