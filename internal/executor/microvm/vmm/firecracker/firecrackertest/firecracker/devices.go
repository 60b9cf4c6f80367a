package main

import (
	"encoding/json"
	"net/http"
	"net/netip"
)

// mmdsLimit is how long the metadata may be.
const mmdsLimit = 51200

func (m *machine) putMMDSConfig(_ string, body []byte) (any, error) {
	c := mmdsConfig{Version: "V1"}
	if err := json.Unmarshal(body, &c); err != nil {
		return nil, err
	}
	m.boot = true
	if len(c.Nets) == 0 {
		return nil, refuse("MMMDS config error: The list of network interface IDs that allow forwarding MMDS requests is empty.")
	}
	for _, id := range c.Nets {
		if m.network(id) == nil {
			return nil, refuse("MMMDS config error: The list of network interface IDs provided contains at least one ID that does not correspond to any existing network interface.")
		}
	}
	if c.Address != "" {
		if a, err := netip.ParseAddr(c.Address); err != nil || !a.Is4() || !a.IsLinkLocalUnicast() {
			return nil, refuse("MMMDS config error: The MMDS IPv4 address is not link local.")
		}
	}
	m.config.MMDS = &c
	return nil, nil
}

// hasMMDS tells whether there is a metadata service: one that boots can have
// one, a running one either has it or not.
func (m *machine) hasMMDS() error {
	if m.state != notStarted && m.config.MMDS == nil {
		return refuse("MMDS error: The MMDS data store is not initialized.")
	}
	return nil
}

func (m *machine) putMMDS(_ string, body []byte) (any, error) {
	if err := m.hasMMDS(); err != nil {
		return nil, err
	}
	m.mmds = body
	return nil, nil
}

func (m *machine) patchMMDS(_ string, body []byte) (any, error) {
	if err := m.hasMMDS(); err != nil {
		return nil, err
	}
	var old, patch any
	if err := json.Unmarshal(m.mmds, &old); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(body, &patch); err != nil {
		return nil, err
	}
	merged, err := json.Marshal(merge(old, patch))
	if err != nil {
		return nil, err
	}
	if len(merged) > mmdsLimit {
		return nil, &fault{http.StatusRequestEntityTooLarge, "MMDS limit exceeded error: The MMDS patch request doesn't fit."}
	}
	m.mmds = merged
	return nil, nil
}

// merge is JSON Merge Patch.
func merge(old, patch any) any {
	p, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	o, ok := old.(map[string]any)
	if !ok {
		o = map[string]any{}
	}
	for key, value := range p {
		if value == nil {
			delete(o, key)
			continue
		}
		o[key] = merge(o[key], value)
	}
	return o
}

func (m *machine) getMMDS(string, []byte) (any, error) {
	if err := m.hasMMDS(); err != nil {
		return nil, err
	}
	return m.mmds, nil
}

const noBalloon = "Failed perform action on device: Device not found"

func (m *machine) putBalloon(_ string, body []byte) (any, error) {
	var b balloon
	if err := json.Unmarshal(body, &b); err != nil {
		return nil, err
	}
	m.boot = true
	if b.MiB > m.config.Machine.MemoryMiB {
		return nil, refuse("Balloon config error: Amount of pages requested is too large.")
	}
	m.config.Balloon = &b
	return nil, nil
}

func (m *machine) getBalloon(string, []byte) (any, error) {
	if m.config.Balloon == nil {
		if m.state == notStarted {
			return nil, refuse("Balloon config error: No balloon device found.")
		}
		return nil, refuse("Internal VMM error: " + noBalloon)
	}
	return m.config.Balloon, nil
}

func (m *machine) patchBalloon(_ string, body []byte) (any, error) {
	var update balloon
	if err := json.Unmarshal(body, &update); err != nil {
		return nil, err
	}
	if m.config.Balloon == nil {
		return nil, refuse("Balloon update error: " + noBalloon)
	}
	if update.MiB > m.config.Machine.MemoryMiB {
		return nil, refuse("Balloon update error: Balloon: Requested memory should be less than %dMiB", m.config.Machine.MemoryMiB)
	}
	m.config.Balloon.MiB = update.MiB
	return nil, nil
}

func (m *machine) balloonStats(string, []byte) (any, error) {
	b := m.config.Balloon
	if b == nil {
		return nil, refuse("Internal VMM error: " + noBalloon)
	}
	if b.Stats == 0 {
		return nil, refuse("Internal VMM error: Balloon: Received stats query when stats are disabled.")
	}
	return map[string]int{"target_pages": b.MiB << 8, "actual_pages": 0, "target_mib": b.MiB, "actual_mib": 0}, nil
}

func (m *machine) patchBalloonStats(_ string, body []byte) (any, error) {
	var update balloon
	if err := json.Unmarshal(body, &update); err != nil {
		return nil, err
	}
	b := m.config.Balloon
	if b == nil {
		return nil, refuse("Balloon update error: " + noBalloon)
	}
	if (b.Stats == 0) != (update.Stats == 0) {
		return nil, refuse("Balloon update error: Balloon: Statistics cannot be enabled/disabled after activation.")
	}
	b.Stats = update.Stats
	return nil, nil
}

func (m *machine) hinting(string, []byte) (any, error) {
	if m.config.Balloon == nil {
		return nil, refuse("Balloon update error: " + noBalloon)
	}
	if !m.config.Balloon.Hinting {
		return nil, refuse("Balloon update error: Balloon: Attempting to use hinting when not enabled")
	}
	return nil, nil
}

func (m *machine) hintingStatus(id string, body []byte) (any, error) {
	if _, err := m.hinting(id, body); err != nil {
		return nil, err
	}
	return map[string]int{"host_cmd": 0, "guest_cmd": 0}, nil
}

func (m *machine) putPmem(_ string, body []byte) (any, error) {
	if m.state != notStarted {
		return nil, refuse("PCI is not enabled")
	}
	m.boot = true
	m.config.Pmem = append(m.config.Pmem, body)
	return nil, nil
}

func (m *machine) patchPmem(id string, body []byte) (any, error) {
	for _, p := range m.config.Pmem {
		var has struct {
			ID string `json:"id"`
		}
		if json.Unmarshal(p, &has) == nil && has.ID == id {
			return nil, nil
		}
	}
	return nil, refuse("Pmem config error: Unable to update the pmem device: " + noBalloon)
}

func (m *machine) putHotplug(_ string, body []byte) (any, error) {
	h := hotplug{Slot: 128, Block: 2}
	if err := json.Unmarshal(body, &h); err != nil {
		return nil, err
	}
	m.boot = true
	if h.Total == 0 || h.Total%h.Slot != 0 {
		return nil, refuse("Memory hotplug config error: Total size must be a multiple of slot size")
	}
	m.config.Hotplug = &h
	return nil, nil
}

func (m *machine) patchHotplug(_ string, body []byte) (any, error) {
	var update struct {
		Requested int `json:"requested_size_mib"`
	}
	if err := json.Unmarshal(body, &update); err != nil {
		return nil, err
	}
	if m.config.Hotplug == nil {
		return nil, refuse("Memory hotplug update error: " + noBalloon)
	}
	m.config.Hotplug.Requested = update.Requested
	return nil, nil
}

func (m *machine) getHotplug(string, []byte) (any, error) {
	h := m.config.Hotplug
	if h == nil {
		return nil, refuse("Internal VMM error: " + noBalloon)
	}
	return map[string]int{
		"total_size_mib": h.Total, "slot_size_mib": h.Slot, "block_size_mib": h.Block,
		"plugged_size_mib": h.Requested, "requested_size_mib": h.Requested,
	}, nil
}
