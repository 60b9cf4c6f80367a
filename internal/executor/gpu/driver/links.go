//go:build cgo

package driver

import (
	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/nimbus-ci/nimbus/internal/executor/gpu/inventory"
)

// links tells how each two GPUs are connected.
func links(gpus []inventory.GPU, handles []nvml.Device) (all []inventory.Link) {
	direct, switched := nvlinks(gpus, handles)
	for a := range gpus {
		for b := range gpus[:a] {
			l := inventory.Link{A: gpus[b].Index, B: gpus[a].Index, Level: inventory.LevelFar}
			// Who are at a switch are joined with all others there.
			l.NVLinks = max(direct[[2]int{a, b}], direct[[2]int{b, a}], min(switched[a], switched[b]))
			if level, ret := handles[a].GetTopologyCommonAncestor(handles[b]); ret == nvml.SUCCESS {
				l.Level = levelOf(level)
			}
			all = append(all, l)
		}
	}
	return all
}

// nvlinks counts those between GPUs, and of each those to a switch.
func nvlinks(gpus []inventory.GPU, handles []nvml.Device) (direct map[[2]int]int, switched []int) {
	direct, switched = map[[2]int]int{}, make([]int, len(gpus))
	at := map[string]int{}
	for k, g := range gpus {
		at[g.Bus] = k
	}
	for a, d := range handles {
		for link := range nvml.NVLINK_MAX_LINKS {
			state, ret := d.GetNvLinkState(link)
			if ret != nvml.SUCCESS || state != nvml.FEATURE_ENABLED {
				continue
			}
			if kind, ret := d.GetNvLinkRemoteDeviceType(link); ret == nvml.SUCCESS && kind == nvml.NVLINK_DEVICE_TYPE_SWITCH {
				switched[a]++
				continue
			}
			remote, ret := d.GetNvLinkRemotePciInfo(link)
			if b, ok := at[busOf(remote)]; ret == nvml.SUCCESS && ok {
				direct[[2]int{a, b}]++
			}
		}
	}
	return direct, switched
}

func levelOf(l nvml.GpuTopologyLevel) int {
	switch l {
	case nvml.TOPOLOGY_INTERNAL:
		return inventory.LevelBoard
	case nvml.TOPOLOGY_SINGLE:
		return inventory.LevelSingle
	case nvml.TOPOLOGY_MULTIPLE:
		return inventory.LevelMultiple
	case nvml.TOPOLOGY_HOSTBRIDGE:
		return inventory.LevelHostBridge
	case nvml.TOPOLOGY_NODE:
		return inventory.LevelNode
	}
	return inventory.LevelFar
}
