package cli

import (
	"time"

	"github.com/nimbus-ci/nimbus"
)

// The views are what --json writes. Their names are a promise: fields are
// added, never renamed.

type jobView struct {
	ID           string            `json:"id"`
	Name         string            `json:"name"`
	Source       nimbus.Source     `json:"source"`
	State        nimbus.State      `json:"state"`
	Result       nimbus.Result     `json:"result,omitempty"`
	Reason       *reasonView       `json:"reason,omitempty"`
	ExitCode     *int              `json:"exit_code,omitempty"`
	Repo         string            `json:"repo,omitempty"`
	Labels       []string          `json:"labels,omitempty"`
	Metadata     map[string]string `json:"metadata,omitempty"`
	Class        classView         `json:"class"`
	AttemptID    string            `json:"attempt_id,omitempty"`
	AttemptCount int               `json:"attempt_count"`
	MaxAttempts  int               `json:"max_attempts,omitempty"`
	Priority     int               `json:"priority,omitempty"`
	RerunOf      string            `json:"rerun_of,omitempty"`
	HeldUntil    *time.Time        `json:"held_until,omitempty"`
	HostID       string            `json:"host_id,omitempty"`
	Command      []string          `json:"command,omitempty"`
	Timeline     map[string]string `json:"timeline"`
	LogLines     int64             `json:"log_lines"`
	LogComplete  bool              `json:"log_complete"`
	URL          string            `json:"url,omitempty"`  // at GitHub
	Used         *usageTotalsView  `json:"used,omitempty"` // by its last attempt, once that has ended
}

type reasonView struct {
	Code    nimbus.ReasonCode `json:"code"`
	Message string            `json:"message"`
}

type classView struct {
	Executor  string                `json:"executor,omitempty"`
	Image     string                `json:"image"`
	Arch      string                `json:"arch,omitempty"`
	CPUs      int                   `json:"cpus"`
	MemoryMiB int                   `json:"memory_mib"`
	Network   nimbus.NetworkProfile `json:"network"`

	GPUs       int      `json:"gpus,omitempty"`
	GPUProfile string   `json:"gpu_profile,omitempty"`
	Needs      []string `json:"needs,omitempty"`
	Reach      []string `json:"reach,omitempty"`
}

func viewClass(c nimbus.Class) classView {
	return classView{Executor: c.Executor, Image: c.Image, Arch: c.Arch, CPUs: c.CPUs, MemoryMiB: c.MemoryMiB, Network: c.Network,
		GPUs: c.GPUs, GPUProfile: c.GPUProfile, Needs: c.Needs.Words(), Reach: c.Reach.Words()}
}

func viewJob(j nimbus.Job) jobView {
	v := jobView{
		ID: j.ID, Name: j.Name, Source: j.Source, State: j.State, Result: j.Result, ExitCode: j.ExitCode, Repo: j.Repo, Labels: j.Labels,
		Class: viewClass(j.Class), AttemptID: j.AttemptID, AttemptCount: j.AttemptCount, HostID: j.HostID, Command: j.Spec.Command,
		Timeline: map[string]string{}, LogLines: j.LogLines, LogComplete: j.LogComplete, Metadata: j.Metadata, URL: j.GitHub.HTMLURL,
		MaxAttempts: j.MaxAttempts, Priority: j.Priority, RerunOf: j.RerunOf,
	}
	if j.Reason.Code != "" {
		v.Reason = &reasonView{Code: j.Reason.Code, Message: j.Reason.Message}
	}
	if !j.HeldUntil.IsZero() {
		v.HeldUntil = &j.HeldUntil
	}
	if j.Usage != (nimbus.UsageTotals{}) {
		v.Used = new(viewTotals(j.Usage))
	}
	for _, p := range phases(j.Timeline) {
		v.Timeline[p.key] = p.at.Format(time.RFC3339Nano)
	}
	return v
}

type eventView struct {
	Seq       int64     `json:"seq"`
	At        time.Time `json:"at"`
	Kind      string    `json:"kind"`
	AttemptID string    `json:"attempt_id,omitempty"`
	Actor     string    `json:"actor"`
	Detail    string    `json:"detail,omitempty"`
}

func viewEvent(e nimbus.JobEvent) eventView {
	return eventView{Seq: e.Seq, At: e.At, Kind: e.Kind, AttemptID: e.AttemptID, Actor: e.Actor, Detail: e.Detail}
}

type lineView struct {
	Seq    int64         `json:"seq"`
	At     time.Time     `json:"at"`
	Stream nimbus.Stream `json:"stream"`
	Step   int32         `json:"step"`
	Group  int32         `json:"group,omitempty"`
	Text   string        `json:"text"`
}

type hostView struct {
	ID           string                  `json:"id"`
	Name         string                  `json:"name"`
	State        nimbus.HostState        `json:"state"`
	Version      string                  `json:"version"`
	Protocol     int                     `json:"protocol,omitempty"`
	JoinedAt     time.Time               `json:"joined_at"`
	SeenAt       time.Time               `json:"seen_at"`
	Arch         string                  `json:"arch"`
	CPUs         int                     `json:"cpus"`
	MemoryMiB    int                     `json:"memory_mib"`
	Running      int                     `json:"running"`
	Sandboxes    int                     `json:"sandboxes,omitempty"`
	CPUModel     string                  `json:"cpu_model,omitempty"`
	Free         freeView                `json:"free"`
	GPUs         []gpuView               `json:"gpus,omitempty"`
	GPUFaults    []gpuFaultView          `json:"gpu_faults,omitempty"` // GPUs that no job gets
	Capabilities []string                `json:"capabilities,omitempty"`
	Network      []nimbus.NetworkProfile `json:"network,omitempty"`
	Reach        []string                `json:"reach,omitempty"`
	Executors    []executorView          `json:"executors"`
	Cordoned     bool                    `json:"cordoned,omitempty"`
	GivesCPUs    int                     `json:"gives_cpus,omitempty"` // in all, where that is more than it has
	GivesMemory  int                     `json:"gives_memory_mib,omitempty"`
	Load         loadView                `json:"load"`
	Copies       *copiesView             `json:"cache_copies,omitempty"` // not set where it keeps none
	Runner       *runnerView             `json:"runner,omitempty"`
}

// runnerView is GitHub's own runner on a host, and how it stands against the
// releases that are known.
type runnerView struct {
	Version    string     `json:"version"`
	Latest     string     `json:"latest,omitempty"`
	NewerSince *time.Time `json:"newer_since,omitempty"`
	RefusedAt  *time.Time `json:"refused_at,omitempty"`
}

func viewRunner(h nimbus.Host) *runnerView {
	if h.Inventory.RunnerVersion == "" {
		return nil
	}
	v := &runnerView{Version: h.Inventory.RunnerVersion, Latest: h.Runner.Latest}
	if !h.Runner.NewerSince.IsZero() {
		v.NewerSince, v.RefusedAt = &h.Runner.NewerSince, &h.Runner.RefusedAt
	}
	return v
}

// loadView is how hard pressed a host is, in percent.
type loadView struct {
	CPU    float64         `json:"cpu_percent"`
	Memory float64         `json:"memory_percent"`
	IO     float64         `json:"io_percent"`
	Disk   float64         `json:"disk_percent"`
	Closed nimbus.Pressure `json:"closed,omitempty"` // what keeps it from asking for jobs
	Why    string          `json:"why,omitempty"`
}

// freeView is what a host had free when it last said so.
type freeView struct {
	CPUs      int            `json:"cpus"`
	MemoryMiB int            `json:"memory_mib"`
	Sandboxes int            `json:"sandboxes"`
	GPUs      map[string]int `json:"gpus,omitempty"`
	Warm      []string       `json:"warm_classes,omitempty"`
}

type gpuView struct {
	Profile   string `json:"profile"`
	Model     string `json:"model,omitempty"`
	MemoryMiB int    `json:"memory_mib,omitempty"`
	Count     int    `json:"count"`
}

type gpuFaultView struct {
	GPU string `json:"gpu"`
	Why string `json:"why"`
}

type executorView struct {
	Name      string `json:"name"`
	Available bool   `json:"available"`
	Detail    string `json:"detail,omitempty"`
	Hint      string `json:"hint,omitempty"`
	// Lacks are capabilities of the host that jobs of this executor don't have.
	Lacks []string `json:"lacks,omitempty"`
}

func viewHost(h nimbus.Host) hostView {
	v := hostView{
		ID: h.ID, Name: h.Name, State: h.State, Version: h.Version, Protocol: h.Inventory.Protocol, JoinedAt: h.JoinedAt, SeenAt: h.SeenAt, Arch: h.Inventory.Arch,
		CPUs: h.Inventory.CPUs, MemoryMiB: h.Inventory.MemoryMiB, Running: h.Running, Executors: []executorView{}, Cordoned: h.Cordoned,
		Sandboxes: h.Inventory.Sandboxes, CPUModel: h.Inventory.CPUModel, Capabilities: h.Inventory.Capabilities,
		Network: h.Inventory.Network, Reach: h.Inventory.Reach.Words(),
		Runner: viewRunner(h), GivesCPUs: h.Inventory.GivesCPUs, GivesMemory: h.Inventory.GivesMemoryMiB, Load: loadView(h.Free.Load), Copies: viewCopies(h.Free.Copies),
		Free: freeView{CPUs: h.Free.CPUs, MemoryMiB: h.Free.MemoryMiB, Sandboxes: h.Free.Sandboxes, GPUs: h.Free.GPUs, Warm: h.Free.Warm},
	}
	for _, g := range h.Inventory.GPUs {
		v.GPUs = append(v.GPUs, gpuView(g))
	}
	for _, f := range h.Inventory.GPUFaults {
		v.GPUFaults = append(v.GPUFaults, gpuFaultView(f))
	}
	for _, e := range h.Inventory.Executors {
		v.Executors = append(v.Executors, executorView{Name: e.Name, Available: e.Available, Detail: e.Detail, Hint: e.Hint, Lacks: e.Lacks.Words()})
	}
	return v
}
