//go:build cgo

package driver

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/nimbus-ci/nimbus/internal/executor/gpu/inventory"
)

// Source is what GPUs are read through.
type Source struct {
	Library nvml.Interface
	// NUMA tells which node of processors a device is nearest to, by its PCI
	// address; -1 where that isn't known.
	NUMA func(bus string) int
}

// Real is the library of the driver that is installed.
func Real() Source { return Source{Library: nvml.New(), NUMA: numaNode} }

// numaNode asks the kernel.
func numaNode(bus string) int {
	raw, err := os.ReadFile(filepath.Join("/sys/bus/pci/devices", filepath.Base(bus), "numa_node"))
	if err != nil {
		return -1
	}
	node, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return -1
	}
	return node
}

// reader reads the GPUs of a source.
type reader struct {
	source Source
	known  []device // as they were when the inventory was read last
}

// device is a GPU, or a slice of one.
type device struct {
	handle nvml.Device
	id     string
	slice  bool
}

// failure is why there is nothing to be read.
func failure(ret nvml.Return) *inventory.Failure {
	f := &inventory.Failure{What: "NVIDIA's driver can't be used: " + ret.Error(), Hint: "does nvidia-smi work on this machine?"}
	switch ret {
	case nvml.ERROR_LIBRARY_NOT_FOUND:
		f.What, f.Hint = "NVIDIA's driver is not installed: there is no libnvidia-ml.so.1", "install the driver; nvidia-smi then shows the GPUs"
	case nvml.ERROR_DRIVER_NOT_LOADED:
		f.What, f.Hint = "NVIDIA's driver is not loaded", "load it: modprobe nvidia; dmesg tells why it isn't"
	case nvml.ERROR_LIB_RM_VERSION_MISMATCH:
		f.What, f.Hint = "NVIDIA's library and the loaded driver are of different versions", "restart the machine: the driver was upgraded"
	case nvml.ERROR_NO_PERMISSION:
		f.Hint = "may this user use /dev/nvidiactl?"
	}
	return f
}

// inventory reads what there is.
func (r *reader) inventory() (inventory.Inventory, nvml.Return) {
	lib := r.source.Library
	var inv inventory.Inventory
	if version, ret := lib.SystemGetDriverVersion(); ret == nvml.SUCCESS {
		inv.Driver = version
	}
	if version, ret := lib.SystemGetCudaDriverVersion(); ret == nvml.SUCCESS {
		inv.CUDAMajor, inv.CUDAMinor = version/1000, version%1000/10
	}
	n, ret := lib.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return inv, ret
	}
	var handles []nvml.Device
	r.known = nil
	for index := range min(n, inventory.MaxGPUs) {
		d, ret := lib.DeviceGetHandleByIndex(index)
		if ret != nvml.SUCCESS {
			continue // it is gone from the bus; its absence is told
		}
		uuid, ret := d.GetUUID()
		if ret != nvml.SUCCESS {
			continue // nothing could be asked for it
		}
		g := r.gpu(d, index, uuid)
		if g.MIG {
			g.Slices = r.slices(d, g)
		} else {
			r.known = append(r.known, device{handle: d, id: uuid})
		}
		inv.GPUs, handles = append(inv.GPUs, g), append(handles, d)
	}
	inv.Links = links(inv.GPUs, handles)
	return inv, nvml.SUCCESS
}

// gpu reads one.
func (r *reader) gpu(d nvml.Device, index int, uuid string) inventory.GPU {
	g := inventory.GPU{UUID: uuid, Index: index, NUMA: -1}
	note := func(ret nvml.Return) bool {
		if ret == nvml.ERROR_GPU_IS_LOST || ret == nvml.ERROR_UNKNOWN {
			g.Condition.Lost = ret.Error()
		}
		return ret == nvml.SUCCESS
	}
	if name, ret := d.GetName(); note(ret) {
		g.Model = name
	}
	if memory, ret := d.GetMemoryInfo(); note(ret) {
		g.MemoryMiB = int(memory.Total >> 20)
	}
	if major, minor, ret := d.GetCudaComputeCapability(); note(ret) {
		g.Major, g.Minor = major, minor
	}
	if pci, ret := d.GetPciInfo(); note(ret) {
		g.Bus = busOf(pci)
		g.NUMA = r.source.NUMA(g.Bus)
	}
	if current, _, ret := d.GetMigMode(); note(ret) {
		g.MIG = current == nvml.DEVICE_MIG_ENABLE
	}
	if n, ret := d.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.VOLATILE_ECC); note(ret) {
		g.Condition.UncorrectedECC = n
	}
	if _, _, pending, failed, ret := d.GetRemappedRows(); note(ret) {
		g.Condition.RemapPending, g.Condition.RemapFailed = pending, failed
	}
	if n, ret := d.GetTemperature(nvml.TEMPERATURE_GPU); note(ret) {
		g.Condition.Celsius = int(n)
	}
	if n, ret := d.GetTemperatureThreshold(nvml.TEMPERATURE_THRESHOLD_SLOWDOWN); note(ret) {
		g.Condition.SlowdownCelsius = int(n)
	}
	return g
}

// busOf is a PCI address as the kernel writes it.
func busOf(p nvml.PciInfo) string {
	return fmt.Sprintf("%04x:%02x:%02x.0", p.Domain, p.Bus, p.Device)
}

// slices reads the slices of a GPU.
func (r *reader) slices(d nvml.Device, g inventory.GPU) (all []inventory.Slice) {
	most, ret := d.GetMaxMigDeviceCount()
	if ret != nvml.SUCCESS {
		return nil
	}
	for index := range min(most, inventory.MaxSlices) {
		s, ret := d.GetMigDeviceHandleByIndex(index)
		if ret != nvml.SUCCESS {
			continue // there are fewer than could be
		}
		uuid, ret := s.GetUUID()
		if ret != nvml.SUCCESS {
			continue
		}
		attributes, ret := s.GetAttributes()
		if ret != nvml.SUCCESS {
			continue
		}
		name, _ := s.GetName()
		all = append(all, inventory.Slice{UUID: uuid, Index: index, Profile: profileOf(name, attributes, g.MemoryMiB), MemoryMiB: int(attributes.MemorySizeMB)})
		r.known = append(r.known, device{handle: s, id: uuid, slice: true})
	}
	return all
}

// profileOf is what a slice's kind is called: the driver's own word where it
// tells one, else made as the driver makes it.
func profileOf(name string, a nvml.DeviceAttributes, totalMiB int) string {
	if _, word, ok := strings.Cut(name, " MIG "); ok {
		return strings.ReplaceAll(strings.ToLower(strings.TrimSpace(word)), "+", ".") // 1g.10gb+me has no place in a label
	}
	const eighths = 8
	gib := (totalMiB + 1023) / 1024
	mib := max(totalMiB, 1)
	part := (int(a.MemorySizeMB)*eighths + mib - 1) / mib
	word := fmt.Sprintf("%dg.%dgb", a.GpuInstanceSliceCount, (part*gib+eighths/2)/eighths)
	if a.ComputeInstanceSliceCount != a.GpuInstanceSliceCount {
		word = fmt.Sprintf("%dc.%s", a.ComputeInstanceSliceCount, word)
	}
	return word
}

// usage reads what each of them does.
func (r *reader) usage(atMillis int64) *inventory.Usage {
	u := &inventory.Usage{AtMillis: atMillis}
	for _, d := range r.known {
		u.Samples = append(u.Samples, d.sample())
	}
	return u
}

func (d device) sample() inventory.Sample {
	s := inventory.Sample{ID: d.id, BusyPercent: -1}
	memory, ret := memoryInUse(d.handle)
	if ret != nvml.SUCCESS {
		s.Lost = ret.Error()
		return s
	}
	s.MemoryBytes = memory
	processes, ret := d.handle.GetComputeRunningProcesses()
	if ret != nvml.SUCCESS {
		s.Lost = "which processes use it can't be told: " + ret.Error()
		return s
	}
	for _, p := range processes[:min(len(processes), inventory.MaxPIDs)] {
		s.PIDs = append(s.PIDs, int(p.Pid))
	}
	if d.slice {
		return s // what else there is to tell is of its GPU alone
	}
	if rates, ret := d.handle.GetUtilizationRates(); ret == nvml.SUCCESS {
		s.BusyPercent = int(min(rates.Gpu, 100))
	}
	if n, ret := d.handle.GetPowerUsage(); ret == nvml.SUCCESS {
		s.PowerMilliwatts = int64(n)
	}
	if n, ret := d.handle.GetTotalEnergyConsumption(); ret == nvml.SUCCESS {
		s.EnergyMillijoules = int64(n)
	}
	return s
}

// memoryInUse is without what the driver keeps for itself, where it tells that
// apart.
func memoryInUse(d nvml.Device) (int64, nvml.Return) {
	if v2, ret := d.GetMemoryInfo_v2(); ret == nvml.SUCCESS {
		return int64(v2.Used), nvml.SUCCESS
	}
	v1, ret := d.GetMemoryInfo()
	return int64(v1.Used), ret
}
