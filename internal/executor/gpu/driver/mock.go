//go:build cgo

package driver

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxa100"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/server"

	"github.com/nimbus-ci/nimbus/internal/executor/gpu/inventory"
)

// mockMachine is go-nvml's mock of a DGX A100, and what that leaves open.
type mockMachine struct {
	*server.Server

	path  string
	began time.Time
}

// Mock is a DGX A100 that isn't there: eight GPUs at NVSwitches, four to a node
// of processors, two to a PCIe switch. path is a file with a MockState.
func Mock(path string) Source {
	m := &mockMachine{Server: dgxa100.New(), path: path, began: time.Now()}
	initialise := m.InitFunc
	m.InitFunc = func() nvml.Return {
		if missing := m.state().Missing; missing != 0 {
			return nvml.Return(missing)
		}
		return initialise()
	}
	m.EventSetCreateFunc = func() (nvml.EventSet, nvml.Return) { return m.events(), nvml.SUCCESS }
	for k, d := range m.Devices {
		if d, ok := d.(*server.Device); ok {
			m.furnish(d, k)
		}
	}
	return Source{Library: m.Server, NUMA: func(bus string) int {
		return slices.IndexFunc([]string{"0000:0", "0000:8"}, func(prefix string) bool { return bus[:len(prefix)] == prefix })
	}}
}

// state reads the file; what can't be read says nothing.
func (m *mockMachine) state() (s MockState) {
	if raw, err := os.ReadFile(m.path); err == nil {
		_ = json.Unmarshal(raw, &s) // a test may just be writing it
	}
	return s
}

func (m *mockMachine) gpu(k int) MockGPU { return m.state().GPUs[k] }

// pciOf is where one is: two below each switch.
func pciOf(k int) nvml.PciInfo {
	return nvml.PciInfo{Bus: uint32(k/4*0x80 + k%4 + 1)}
}

// furnish has a device answer what is asked of it.
func (m *mockMachine) furnish(d *server.Device, k int) {
	d.UUID = fmt.Sprintf("GPU-00000000-0000-4000-8000-%012d", k)
	found := func() nvml.Return {
		if m.gpu(k).Lost {
			return nvml.ERROR_GPU_IS_LOST
		}
		return nvml.SUCCESS
	}
	d.GetPciInfoFunc = func() (nvml.PciInfo, nvml.Return) { return pciOf(k), nvml.SUCCESS }
	d.GetMemoryInfo_v2Func = func() (nvml.Memory_v2, nvml.Return) {
		return nvml.Memory_v2{Used: uint64(m.gpu(k).MemoryMiB+4) << 20}, found()
	}
	memory := d.MemoryInfo
	d.GetMemoryInfoFunc = func() (nvml.Memory, nvml.Return) { return memory, found() }
	d.GetTotalEccErrorsFunc = func(nvml.MemoryErrorType, nvml.EccCounterType) (uint64, nvml.Return) {
		return m.gpu(k).UncorrectedECC, found()
	}
	d.GetRemappedRowsFunc = func() (int, int, bool, bool, nvml.Return) { return 0, 0, false, false, nvml.SUCCESS }
	d.GetTemperatureFunc = func(nvml.TemperatureSensors) (uint32, nvml.Return) {
		return uint32(max(m.gpu(k).Celsius, 30)), nvml.SUCCESS
	}
	d.GetTemperatureThresholdFunc = func(nvml.TemperatureThresholds) (uint32, nvml.Return) { return 90, nvml.SUCCESS }
	d.GetUtilizationRatesFunc = func() (nvml.Utilization, nvml.Return) {
		return nvml.Utilization{Gpu: uint32(m.gpu(k).BusyPercent)}, nvml.SUCCESS
	}
	d.GetPowerUsageFunc = func() (uint32, nvml.Return) { return uint32(max(m.gpu(k).Watts, 50)) * 1000, nvml.SUCCESS }
	d.GetTotalEnergyConsumptionFunc = func() (uint64, nvml.Return) { return 0, nvml.ERROR_NOT_SUPPORTED }
	d.GetComputeRunningProcessesFunc = func() ([]nvml.ProcessInfo, nvml.Return) { return processes(m.gpu(k)), nvml.SUCCESS }
	d.RegisterEventsFunc = func(uint64, nvml.EventSet) nvml.Return { return nvml.SUCCESS }
	m.connect(d, k)
	m.cut(d, k)
}

func processes(g MockGPU) (all []nvml.ProcessInfo) {
	for _, pid := range g.PIDs {
		all = append(all, nvml.ProcessInfo{Pid: uint32(pid)})
	}
	return all
}

// connect joins a device with the others.
func (*mockMachine) connect(d *server.Device, k int) {
	const linksToSwitches = 12
	d.GetNvLinkStateFunc = func(link int) (nvml.EnableState, nvml.Return) {
		if link < linksToSwitches {
			return nvml.FEATURE_ENABLED, nvml.SUCCESS
		}
		return nvml.FEATURE_DISABLED, nvml.ERROR_INVALID_ARGUMENT
	}
	d.GetNvLinkRemoteDeviceTypeFunc = func(int) (nvml.IntNvLinkDeviceType, nvml.Return) {
		return nvml.NVLINK_DEVICE_TYPE_SWITCH, nvml.SUCCESS
	}
	d.GetTopologyCommonAncestorFunc = func(other nvml.Device) (nvml.GpuTopologyLevel, nvml.Return) {
		index, ret := other.GetIndex()
		switch {
		case index/2 == k/2:
			return nvml.TOPOLOGY_SINGLE, ret
		case index/4 == k/4:
			return nvml.TOPOLOGY_NODE, ret
		}
		return nvml.TOPOLOGY_SYSTEM, ret
	}
}

// cut has a device tell of slices.
func (m *mockMachine) cut(d *server.Device, k int) {
	d.GetMigModeFunc = func() (int, int, nvml.Return) {
		if m.state().MIG[k] > 0 {
			return nvml.DEVICE_MIG_ENABLE, nvml.DEVICE_MIG_ENABLE, nvml.SUCCESS
		}
		return 0, 0, nvml.SUCCESS
	}
	d.GetMaxMigDeviceCountFunc = func() (int, nvml.Return) { return inventory.MaxSlices - 1, nvml.SUCCESS }
	d.GetMigDeviceHandleByIndexFunc = func(index int) (nvml.Device, nvml.Return) {
		if index >= m.state().MIG[k] {
			return nil, nvml.ERROR_NOT_FOUND
		}
		return &mock.Device{
			GetUUIDFunc: func() (string, nvml.Return) {
				return fmt.Sprintf("MIG-00000000-0000-4000-8%03d-%012d", index, k), nvml.SUCCESS
			},
			GetNameFunc: func() (string, nvml.Return) { return "NVIDIA A100-SXM4-40GB MIG 1g.5gb", nvml.SUCCESS },
			GetAttributesFunc: func() (nvml.DeviceAttributes, nvml.Return) {
				return nvml.DeviceAttributes{GpuInstanceSliceCount: 1, ComputeInstanceSliceCount: 1, MemorySizeMB: 4864}, nvml.SUCCESS
			},
			GetMemoryInfo_v2Func: func() (nvml.Memory_v2, nvml.Return) { return nvml.Memory_v2{}, nvml.ERROR_NOT_SUPPORTED },
			GetMemoryInfoFunc: func() (nvml.Memory, nvml.Return) {
				return nvml.Memory{Total: 4864 << 20, Used: 12 << 20}, nvml.SUCCESS
			},
			GetComputeRunningProcessesFunc: func() ([]nvml.ProcessInfo, nvml.Return) { return nil, nvml.SUCCESS },
		}, nvml.SUCCESS
	}
}

// events tells once of each XID that the state has.
func (m *mockMachine) events() nvml.EventSet {
	told := map[[2]uint64]bool{}
	return &mock.EventSet{
		FreeFunc: func() nvml.Return { return nvml.SUCCESS },
		WaitFunc: func(timeoutMillis uint32) (nvml.EventData, nvml.Return) {
			until := time.Now().Add(time.Duration(timeoutMillis) * time.Millisecond)
			for {
				for k, g := range m.state().GPUs {
					if key := [2]uint64{uint64(k), g.XID}; g.XID != 0 && k < len(m.Devices) && !told[key] {
						told[key] = true
						return nvml.EventData{Device: m.Devices[k], EventType: nvml.EventTypeXidCriticalError, EventData: g.XID}, nvml.SUCCESS
					}
				}
				if time.Now().After(until) {
					return nvml.EventData{}, nvml.ERROR_TIMEOUT
				}
				<-time.After(20 * time.Millisecond)
			}
		},
	}
}
