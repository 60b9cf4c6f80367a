package main

import (
	"encoding/json"
	"net"
	"os"
)

type when int

const (
	always when = iota
	preBoot
	postBoot
)

// call is what an operation does.
type call struct {
	when when
	do   func(m *machine, id string, body []byte) (any, error)
}

// calls are all operations of the description.
var calls = map[string]call{
	"describeInstance": {always, func(m *machine, _ string, _ []byte) (any, error) {
		return map[string]any{"app_name": "Firecracker", "id": m.id, "state": m.state, "vmm_version": version}, nil
	}},
	"getFirecrackerVersion": {always, func(*machine, string, []byte) (any, error) {
		return map[string]string{"firecracker_version": version}, nil
	}},
	"getExportVmConfig":              {always, func(m *machine, _ string, _ []byte) (any, error) { return m.config, nil }},
	"getMachineConfiguration":        {always, func(m *machine, _ string, _ []byte) (any, error) { return m.config.Machine, nil }},
	"putMachineConfiguration":        {preBoot, (*machine).putMachine},
	"patchMachineConfiguration":      {preBoot, (*machine).putMachine},
	"putGuestBootSource":             {preBoot, (*machine).putBoot},
	"putGuestDriveByID":              {always, (*machine).putDrive},
	"patchGuestDriveByID":            {postBoot, (*machine).patchDrive},
	"putGuestNetworkInterfaceByID":   {always, (*machine).putNetwork},
	"patchGuestNetworkInterfaceByID": {postBoot, (*machine).patchNetwork},
	"putGuestVsock":                  {preBoot, (*machine).putVsock},
	"putEntropyDevice": {preBoot, func(m *machine, _ string, body []byte) (any, error) {
		m.boot, m.config.Entropy = true, body
		return nil, nil
	}},
	"putLogger":           {preBoot, (*machine).putLogger},
	"putMetrics":          {preBoot, (*machine).putMetrics},
	"putSerialDevice":     {preBoot, nothing},
	"putCpuConfiguration": {preBoot, nothing},
	"putMmdsConfig":       {preBoot, (*machine).putMMDSConfig},
	"putMmds":             {always, (*machine).putMMDS},
	"patchMmds":           {always, (*machine).patchMMDS},
	"getMmds":             {always, (*machine).getMMDS},
	"createSyncAction":    {always, (*machine).action},
	"patchVm":             {postBoot, (*machine).patchVM},
	"createSnapshot":      {postBoot, (*machine).createSnapshot},
	"loadSnapshot":        {preBoot, (*machine).loadSnapshot},

	"putBalloon":                {preBoot, (*machine).putBalloon},
	"describeBalloonConfig":     {always, (*machine).getBalloon},
	"patchBalloon":              {postBoot, (*machine).patchBalloon},
	"describeBalloonStats":      {postBoot, (*machine).balloonStats},
	"patchBalloonStatsInterval": {postBoot, (*machine).patchBalloonStats},
	"startBalloonHinting":       {postBoot, (*machine).hinting},
	"stopBalloonHinting":        {postBoot, (*machine).hinting},
	"describeBalloonHinting":    {postBoot, (*machine).hintingStatus},

	"putGuestPmemByID":   {always, (*machine).putPmem},
	"patchGuestPmemByID": {postBoot, (*machine).patchPmem},
	"putMemoryHotplug":   {preBoot, (*machine).putHotplug},
	"patchMemoryHotplug": {postBoot, (*machine).patchHotplug},
	"getMemoryHotplug":   {postBoot, (*machine).getHotplug},
}

func nothing(*machine, string, []byte) (any, error) { return nil, nil }

func (m *machine) putMachine(_ string, body []byte) (any, error) {
	c := machineConfig{HugePages: "None"}
	if err := json.Unmarshal(body, &c); err != nil {
		return nil, err
	}
	m.boot = true
	switch {
	case c.SMT && c.VCPUs > 1 && c.VCPUs%2 == 1:
		return nil, refuse("Machine config error: %s", invalidVCPUs)
	case c.MemoryMiB <= 0, c.HugePages != "None" && c.MemoryMiB%2 == 1:
		return nil, refuse("Machine config error: The memory size (MiB) is either 0, or not a multiple of the configured page size.")
	case m.config.Balloon != nil && m.config.Balloon.MiB > c.MemoryMiB:
		return nil, refuse("Machine config error: The memory size (MiB) is smaller than the previously set balloon device target size.")
	}
	m.config.Machine = c
	return nil, nil
}

func (m *machine) putBoot(_ string, body []byte) (any, error) {
	var b bootSource
	if err := json.Unmarshal(body, &b); err != nil {
		return nil, err
	}
	m.boot = true
	if err := openable(b.Kernel, os.O_RDONLY); err != nil {
		return nil, refuse("Boot source error: The kernel file cannot be opened: %v", err)
	}
	if b.Initrd != "" {
		if err := openable(b.Initrd, os.O_RDONLY); err != nil {
			return nil, refuse("Boot source error: The initrd file cannot be opened due to invalid path or invalid permissions. %v", err)
		}
	}
	m.config.Boot = &b
	return nil, nil
}

func (m *machine) putDrive(id string, body []byte) (any, error) {
	if m.state != notStarted {
		return nil, refuse("PCI is not enabled")
	}
	var d drive
	if err := json.Unmarshal(body, &d); err != nil {
		return nil, err
	}
	m.boot = true
	for _, other := range m.config.Drives {
		if d.Root && other.Root && other.ID != id {
			return nil, refuse("Drive config error: A root block device already exists!")
		}
	}
	if err := openDrive(&d); err != nil {
		return nil, refuse("Drive config error: Unable to create the virtio block device: %v", err)
	}
	if old := m.drive(id); old != nil {
		*old = d
		return nil, nil
	}
	m.config.Drives = append(m.config.Drives, &d)
	return nil, nil
}

func openDrive(d *drive) error {
	flags := os.O_RDWR
	if d.ReadOnly {
		flags = os.O_RDONLY
	}
	if err := openable(d.Path, flags); err != nil {
		return refuse("Virtio backend error: Error manipulating the backing file: %v %s", err, d.Path)
	}
	return nil
}

func (m *machine) patchDrive(id string, body []byte) (any, error) {
	var update drive
	if err := json.Unmarshal(body, &update); err != nil {
		return nil, err
	}
	d := m.drive(id)
	if d == nil {
		return nil, refuse("Drive config error: Unable to patch the block device: Failed perform action on device: Device not found Please verify the request arguments.")
	}
	if update.Path != "" {
		changed := *d
		changed.Path = update.Path
		if err := openDrive(&changed); err != nil {
			return nil, refuse("Drive config error: Unable to patch the block device: Block: %v Please verify the request arguments.", err)
		}
		d.Path = update.Path
	}
	if update.Limit != nil {
		d.Limit = update.Limit
	}
	return nil, nil
}

func (m *machine) putNetwork(id string, body []byte) (any, error) {
	if m.state != notStarted {
		return nil, refuse("PCI is not enabled")
	}
	var n network
	if err := json.Unmarshal(body, &n); err != nil {
		return nil, err
	}
	m.boot = true
	if n.MAC != "" {
		if mac, err := net.ParseMAC(n.MAC); err != nil || len(mac) != 6 {
			return nil, refuse("An error occurred when deserializing the json body of a request: The provided MAC address is invalid. at line 1 column %d.", len(body))
		}
	}
	for _, other := range m.config.Nets {
		if n.MAC != "" && other.MAC == n.MAC && other.ID != id {
			return nil, refuse("Network config error: The MAC address is already in use: %s", n.MAC)
		}
	}
	if err := openTap(n.Dev); err != nil {
		return nil, err
	}
	if old := m.network(id); old != nil {
		*old = n
		return nil, nil
	}
	m.config.Nets = append(m.config.Nets, &n)
	return nil, nil
}

// openTap refuses a device that isn't in the monitor's network namespace.
func openTap(name string) error {
	if _, err := net.InterfaceByName(name); err != nil {
		return refuse("Network config error: Could not create the network device: Open tap device failed: Error while creating ifreq structure: Invalid argument (os error 22). Invalid TUN/TAP Backend provided by %s. Check our documentation on setting up the network devices.", name)
	}
	return nil
}

func (m *machine) patchNetwork(id string, body []byte) (any, error) {
	var update network
	if err := json.Unmarshal(body, &update); err != nil {
		return nil, err
	}
	n := m.network(id)
	if n == nil {
		return nil, refuse("Network config error: Unable to update the net device: Failed perform action on device: Device not found")
	}
	n.RX, n.TX = update.RX, update.TX
	return nil, nil
}

func (m *machine) putVsock(_ string, body []byte) (any, error) {
	var v vsock
	if err := json.Unmarshal(body, &v); err != nil {
		return nil, err
	}
	m.boot = true
	if m.guest != nil {
		m.guest.close()
	}
	listener, err := listenVsock(v.Path)
	if err != nil {
		return nil, refuse("Vsock config error: Cannot create backend for vsock device: Error binding to the host-side Unix socket: %v", osError(err))
	}
	m.guest, m.config.Vsock = newGuest(m, listener), &v
	return nil, nil
}

func (m *machine) putLogger(_ string, body []byte) (any, error) {
	var l struct {
		Path string `json:"log_path"`
	}
	if err := json.Unmarshal(body, &l); err != nil {
		return nil, err
	}
	if l.Path != "" {
		if err := openable(l.Path, os.O_WRONLY|os.O_CREATE); err != nil {
			return nil, refuse("Logger error: Failed to open target file: %v", err)
		}
	}
	return nil, nil
}

func (m *machine) putMetrics(_ string, body []byte) (any, error) {
	var c struct {
		Path string `json:"metrics_path"`
	}
	if err := json.Unmarshal(body, &c); err != nil {
		return nil, err
	}
	const prefix = "Metrics error: Cannot initialize the metrics system due to bad user input: "
	if err := openable(c.Path, os.O_WRONLY|os.O_CREATE); err != nil {
		return nil, refuse(prefix+"%v", err)
	}
	if m.metrics {
		return nil, refuse(prefix + "Reinitialization of metrics not allowed.")
	}
	m.metrics = true
	return nil, nil
}
