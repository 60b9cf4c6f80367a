package wire

import (
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// Inventory makes a message.
func Inventory(i nimbus.Inventory) *nimbusv1.Inventory {
	out := &nimbusv1.Inventory{Arch: i.Arch, Cpus: int32(i.CPUs), MemoryMib: int32(i.MemoryMiB), CpuModel: i.CPUModel,
		Capabilities: i.Capabilities, Sandboxes: int32(i.Sandboxes), Protocol: int32(i.Protocol), Reach: i.Reach.Words(), RunnerVersion: i.RunnerVersion,
		GivesCpus: int32(i.GivesCPUs), GivesMemoryMib: int32(i.GivesMemoryMiB), Shells: i.Shells}
	for _, p := range i.Network {
		out.Network = append(out.Network, string(p))
	}
	for _, e := range i.Executors {
		out.Executors = append(out.Executors, &nimbusv1.ExecutorStatus{Name: e.Name, Available: e.Available, Detail: e.Detail, Hint: e.Hint, Lacks: e.Lacks.Words()})
	}
	for _, g := range i.GPUs {
		out.Gpus = append(out.Gpus, &nimbusv1.GpuGroup{Profile: g.Profile, Model: g.Model, MemoryMib: int32(g.MemoryMiB), Count: int32(g.Count)})
	}
	for _, f := range i.GPUFaults {
		out.GpuFaults = append(out.GpuFaults, &nimbusv1.GpuFault{Gpu: f.GPU, Why: f.Why})
	}
	return out
}

// ToInventory reads one.
func ToInventory(i *nimbusv1.Inventory) nimbus.Inventory {
	out := nimbus.Inventory{Arch: i.GetArch(), CPUs: int(i.GetCpus()), MemoryMiB: int(i.GetMemoryMib()), CPUModel: i.GetCpuModel(),
		Capabilities: i.GetCapabilities(), Sandboxes: int(i.GetSandboxes()), Protocol: int(i.GetProtocol()),
		Reach: nimbus.Names(strings.Join(i.GetReach(), " ")), RunnerVersion: i.GetRunnerVersion(),
		GivesCPUs: int(i.GetGivesCpus()), GivesMemoryMiB: int(i.GetGivesMemoryMib()), Shells: i.GetShells()}
	for _, p := range i.GetNetwork() {
		out.Network = append(out.Network, nimbus.NetworkProfile(p))
	}
	for _, e := range i.GetExecutors() {
		out.Executors = append(out.Executors, nimbus.ExecutorStatus{Name: e.GetName(), Available: e.GetAvailable(), Detail: e.GetDetail(), Hint: e.GetHint(),
			Lacks: nimbus.Capabilities(strings.Join(e.GetLacks(), " "))})
	}
	for _, g := range i.GetGpus() {
		out.GPUs = append(out.GPUs, nimbus.GPUGroup{Profile: g.GetProfile(), Model: g.GetModel(), MemoryMiB: int(g.GetMemoryMib()), Count: int(g.GetCount())})
	}
	for _, f := range i.GetGpuFaults() {
		out.GPUFaults = append(out.GPUFaults, nimbus.GPUFault{GPU: f.GetGpu(), Why: f.GetWhy()})
	}
	return out
}

// Host makes a message.
func Host(h nimbus.Host) *nimbusv1.Host {
	return &nimbusv1.Host{
		Id: h.ID, Name: h.Name, State: string(h.State), Version: h.Version, JoinedAt: Time(h.JoinedAt), SeenAt: Time(h.SeenAt),
		Inventory: Inventory(h.Inventory), Running: int32(h.Running),
		Free: Capacity(h.Free), Cordoned: h.Cordoned, Runner: RunnerStanding(h.Runner),
	}
}

// ToHost reads one.
func ToHost(h *nimbusv1.Host) nimbus.Host {
	return nimbus.Host{
		ID: h.GetId(), Name: h.GetName(), State: nimbus.HostState(h.GetState()), Version: h.GetVersion(), JoinedAt: ToTime(h.GetJoinedAt()),
		SeenAt: ToTime(h.GetSeenAt()), Inventory: ToInventory(h.GetInventory()), Running: int(h.GetRunning()),
		Free: ToCapacity(h.GetFree()), Cordoned: h.GetCordoned(), Runner: ToRunnerStanding(h.GetRunner()),
	}
}

// RunnerStanding makes a message; nil for what is not known.
func RunnerStanding(s nimbus.RunnerStanding) *nimbusv1.RunnerStanding {
	if s == (nimbus.RunnerStanding{}) {
		return nil
	}
	return &nimbusv1.RunnerStanding{Latest: s.Latest, NewerSince: Time(s.NewerSince), RefusedAt: Time(s.RefusedAt)}
}

// ToRunnerStanding reads one.
func ToRunnerStanding(m *nimbusv1.RunnerStanding) nimbus.RunnerStanding {
	return nimbus.RunnerStanding{Latest: m.GetLatest(), NewerSince: ToTime(m.GetNewerSince()), RefusedAt: ToTime(m.GetRefusedAt())}
}

// Capacity makes a message.
func Capacity(c nimbus.Capacity) *nimbusv1.Capacity {
	return &nimbusv1.Capacity{Cpus: int32(c.CPUs), MemoryMib: int32(c.MemoryMiB), Sandboxes: int32(c.Sandboxes),
		Gpus: counts(c.GPUs), WarmClassIds: c.Warm, Load: Load(c.Load), Copies: Copies(c.Copies)}
}

// ToCapacity reads one.
func ToCapacity(c *nimbusv1.Capacity) nimbus.Capacity {
	return nimbus.Capacity{CPUs: int(c.GetCpus()), MemoryMiB: int(c.GetMemoryMib()), Sandboxes: int(c.GetSandboxes()),
		GPUs: toCounts(c.GetGpus()), Warm: c.GetWarmClassIds(), Load: ToLoad(c.GetLoad()), Copies: ToCopies(c.GetCopies())}
}

// Load makes a message; one that tells nothing is absent.
func Load(l nimbus.Load) *nimbusv1.HostLoad {
	if l == (nimbus.Load{}) {
		return nil
	}
	return &nimbusv1.HostLoad{CpuPercent: l.CPU, MemoryPercent: l.Memory, IoPercent: l.IO, DiskPercent: l.Disk, Closed: string(l.Closed), Why: l.Why}
}

// ToLoad reads one.
func ToLoad(m *nimbusv1.HostLoad) nimbus.Load {
	return nimbus.Load{CPU: m.GetCpuPercent(), Memory: m.GetMemoryPercent(), IO: m.GetIoPercent(), Disk: m.GetDiskPercent(),
		Closed: nimbus.Pressure(m.GetClosed()), Why: m.GetWhy()}
}

// Copies makes a message; one that tells nothing is absent.
func Copies(c nimbus.CacheCopies) *nimbusv1.HostCopies {
	if c == (nimbus.CacheCopies{}) {
		return nil
	}
	return &nimbusv1.HostCopies{Hits: c.Hits, Misses: c.Misses, SentBytes: c.SentBytes, OriginBytes: c.OriginBytes, Saved: c.Saved,
		Evicted: c.Evicted, EvictedBytes: c.EvictedBytes, Refused: c.Refused, Corrupt: c.Corrupt, Entries: c.Entries, Bytes: c.Bytes, LimitBytes: c.Limit}
}

// ToCopies reads one.
func ToCopies(m *nimbusv1.HostCopies) nimbus.CacheCopies {
	return nimbus.CacheCopies{Hits: m.GetHits(), Misses: m.GetMisses(), SentBytes: m.GetSentBytes(), OriginBytes: m.GetOriginBytes(), Saved: m.GetSaved(),
		Evicted: m.GetEvicted(), EvictedBytes: m.GetEvictedBytes(), Refused: m.GetRefused(), Corrupt: m.GetCorrupt(), Entries: m.GetEntries(), Bytes: m.GetBytes(), Limit: m.GetLimitBytes()}
}

// PollRequest makes the question of a host that has this much free. What more
// than that is in use counts as nothing free.
func PollRequest(free nimbus.Capacity, wait time.Duration) *nimbusv1.PollRequest {
	c := Capacity(free)
	return &nimbusv1.PollRequest{FreeCpus: max(0, c.Cpus), FreeMemoryMib: max(0, c.MemoryMib), FreeSandboxes: max(0, c.Sandboxes),
		FreeGpus: c.Gpus, WarmClassIds: c.WarmClassIds, Wait: Duration(wait), Load: c.Load, Copies: c.Copies}
}

// ToFree reads what a host that asks has free.
func ToFree(r *nimbusv1.PollRequest) nimbus.Capacity {
	return nimbus.Capacity{CPUs: int(r.GetFreeCpus()), MemoryMiB: int(r.GetFreeMemoryMib()), Sandboxes: int(r.GetFreeSandboxes()),
		GPUs: toCounts(r.GetFreeGpus()), Warm: r.GetWarmClassIds(), Load: ToLoad(r.GetLoad()), Copies: ToCopies(r.GetCopies())}
}

func counts(m map[string]int) map[string]int32 {
	if len(m) == 0 {
		return nil
	}
	out := make(map[string]int32, len(m))
	for k, n := range m {
		out[k] = int32(n)
	}
	return out
}

func toCounts(m map[string]int32) map[string]int {
	if len(m) == 0 {
		return nil
	}
	out := make(map[string]int, len(m))
	for k, n := range m {
		out[k] = int(n)
	}
	return out
}
