package main

import (
	"encoding/json"
	"os"
)

func (m *machine) action(_ string, body []byte) (any, error) {
	var a struct {
		Type string `json:"action_type"`
	}
	if err := json.Unmarshal(body, &a); err != nil {
		return nil, err
	}
	switch {
	case a.Type == "InstanceStart" && m.state == notStarted:
		return nil, m.start()
	case a.Type == "InstanceStart":
		return nil, refuse("The requested operation is not supported after starting the microVM.")
	case m.state == notStarted:
		return nil, refuse("The requested operation is not supported before starting the microVM.")
	}
	return nil, nil
}

func (m *machine) start() error {
	if m.config.Boot == nil {
		return refuse("Start microvm error: Cannot start microvm without kernel configuration.")
	}
	kernel, err := os.ReadFile(m.config.Boot.Kernel)
	if err != nil {
		return refuse("Start microvm error: %v", err)
	}
	if m.memory, err = newMemory(m.config.Machine.MemoryMiB << 20); err != nil {
		return refuse("Start microvm error: Invalid Memory Configuration: %v", err)
	}
	m.state = running
	if m.guest == nil {
		m.guest = newGuest(m, nil)
	}
	if path := m.config.Boot.Initrd; path != "" {
		initrd, err := os.ReadFile(path)
		if err != nil {
			return refuse("Start microvm error: %v", err)
		}
		if m.guest.init, err = initOf(initrd, m.memory, m.config.Boot.Args, m.end); err != nil {
			return err
		}
	}
	if m.guest.init != nil {
		return m.guest.init.run(m.stdout)
	}
	m.memory.fill()
	m.guest.run(kernel)
	return nil
}

func (m *machine) patchVM(_ string, body []byte) (any, error) {
	var v struct {
		State string `json:"state"`
	}
	if err := json.Unmarshal(body, &v); err != nil {
		return nil, err
	}
	init := m.guest.init
	if v.State == "Paused" {
		m.state = paused
		if init != nil {
			return nil, init.pause()
		}
		return nil, nil
	}
	m.state = running
	if init != nil {
		return nil, init.run(m.stdout)
	}
	return nil, nil
}

// saved is a snapshot's state.
type saved struct {
	Double string `json:"double"` // what made it
	Config config `json:"config"`
	Guest  []byte `json:"guest"`          // its kernel
	Init   int    `json:"init,omitempty"` // how much of the memory is its first process
}

func (m *machine) createSnapshot(_ string, body []byte) (any, error) {
	var c struct {
		State  string `json:"snapshot_path"`
		Memory string `json:"mem_file_path"`
		Type   string `json:"snapshot_type"`
	}
	if err := json.Unmarshal(body, &c); err != nil {
		return nil, err
	}
	if m.state != paused {
		return nil, refuse("Create snapshot error: Cannot save the microVM state: Operation not allowed: save/dump is not allowed while the vCPU is running")
	}
	if c.Type == "Diff" && !m.config.Machine.Track {
		// Without tracking it asks the kernel which pages are in memory.
		c.Type = "Full"
	}
	if err := m.memory.save(c.Memory); err != nil {
		return nil, refuse("Create snapshot error: Cannot perform open on the memory backing file: %v", osError(err))
	}
	state := saved{Double: version, Config: m.config, Guest: m.guest.kernel}
	if m.guest.init != nil {
		state.Init = len(m.guest.init.program)
	}
	raw, err := json.Marshal(state)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(c.State, raw, 0o600); err != nil {
		return nil, refuse("Create snapshot error: Cannot perform open on the snapshot backing file: %v", osError(err))
	}
	return nil, nil
}

// loading is the body of a load.
type loading struct {
	State   string `json:"snapshot_path"`
	File    string `json:"mem_file_path"`
	Backend *struct {
		Type string `json:"backend_type"`
		Path string `json:"backend_path"`
	} `json:"mem_backend"`
	Resume    bool      `json:"resume_vm"`
	Networks  []network `json:"network_overrides"`
	Vsock     *vsock    `json:"vsock_override"`
	HugePages string    `json:"huge_pages"`
}

func (m *machine) loadSnapshot(_ string, body []byte) (any, error) {
	var l loading
	if err := json.Unmarshal(body, &l); err != nil {
		return nil, err
	}
	const parser = "An error occurred when deserializing the json body of a request: "
	switch {
	case l.Backend != nil && l.File != "":
		return nil, refuse(parser + "too many fields: either `mem_backend` or `mem_file_path` exclusively is required.")
	case l.Backend == nil && l.File == "":
		return nil, refuse(parser + "missing field: either `mem_backend` or `mem_file_path` is required.")
	case m.boot:
		return nil, refuse("Load snapshot error: Loading a microVM snapshot not allowed after configuring boot-specific resources.")
	}
	if err := m.restore(l); err != nil {
		// A monitor that has half a machine can't go on.
		m.failure = refuse("Failed to build microVM from requests: Loading snapshot failed.")
		return nil, refuse("Load snapshot error: Failed to restore from snapshot: %v", err)
	}
	m.state = paused
	if l.Resume {
		m.state = running
		if m.guest.init != nil {
			return nil, m.guest.init.run(m.stdout)
		}
	}
	return nil, nil
}

func (m *machine) restore(l loading) error {
	raw, err := os.ReadFile(l.State)
	if err != nil {
		return refuse("Failed to get snapshot state from file: Failed to open snapshot file: %v", osError(err))
	}
	var s saved
	if err := json.Unmarshal(raw, &s); err != nil || s.Double != version {
		return refuse("Failed to get snapshot state from file: Failed to load snapshot state from file: Failed to deserialize the object")
	}
	m.config = s.Config
	for _, override := range l.Networks {
		n := m.network(override.ID)
		if n == nil {
			return refuse("Failed to get snapshot state from file: Unknown Network Device.")
		}
		n.Dev = override.Dev
	}
	for _, n := range m.config.Nets {
		if err := openTap(n.Dev); err != nil {
			return refuse("Failed to build microVM from snapshot: %v", err)
		}
	}
	for _, d := range m.config.Drives {
		if err := openDrive(d); err != nil {
			return refuse("Failed to build microVM from snapshot: %v", err)
		}
	}
	size := m.config.Machine.MemoryMiB << 20
	if l.Backend != nil && l.Backend.Type == "Uffd" {
		m.memory, err = faultingMemory(size, l.Backend.Path)
	} else {
		path := l.File
		if l.Backend != nil {
			path = l.Backend.Path
		}
		m.memory, err = mapMemory(size, path)
	}
	if err != nil {
		return refuse("Failed to load guest memory: %v", err)
	}
	m.guest = newGuest(m, nil)
	if v := m.config.Vsock; v != nil {
		if l.Vsock != nil {
			v.Path = l.Vsock.Path
		}
		listener, err := listenVsock(v.Path)
		if err != nil {
			return refuse("Failed to build microVM from snapshot: %v", osError(err))
		}
		m.guest = newGuest(m, listener)
	} else if l.Vsock != nil {
		return refuse("Failed to get snapshot state from file: Unknown Vsock Device.")
	}
	if s.Init > 0 { // it begins again when the machine is resumed
		m.guest.init = newInit(m.memory.raw[:s.Init], m.config.Boot.Args, m.end)
		return nil
	}
	m.guest.run(s.Guest)
	return nil
}
