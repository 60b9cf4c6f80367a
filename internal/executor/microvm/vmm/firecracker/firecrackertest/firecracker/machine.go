package main

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"slices"
	"sync"
	"syscall"
)

type state string

const (
	notStarted state = "Not started"
	running    state = "Running"
	paused     state = "Paused"
)

const invalidVCPUs = "The number of vCPUs must be greater than 0, less than 32 and must be 1 or an even number if SMT is enabled."

// machine is the one machine of a monitor.
type machine struct {
	id     string
	stdout io.Writer

	mu      sync.Mutex
	state   state
	config  config
	mmds    json.RawMessage
	boot    bool // something was configured that a snapshot would have in it
	metrics bool
	memory  *memory
	guest   *guest

	failure error // what ended the monitor
	ending  sync.Once
	ended   chan struct{}
}

// config is what a machine is made of: it is what a snapshot's state has in it.
type config struct {
	Machine machineConfig              `json:"machine-config"`
	Boot    *bootSource                `json:"boot-source,omitempty"`
	Drives  []*drive                   `json:"drives"`
	Nets    []*network                 `json:"network-interfaces"`
	Vsock   *vsock                     `json:"vsock,omitempty"`
	Balloon *balloon                   `json:"balloon,omitempty"`
	MMDS    *mmdsConfig                `json:"mmds-config,omitempty"`
	Entropy json.RawMessage            `json:"entropy,omitempty"`
	Pmem    []json.RawMessage          `json:"pmem"`
	Hotplug *hotplug                   `json:"memory-hotplug,omitempty"`
	Other   map[string]json.RawMessage `json:"-"`
}

type machineConfig struct {
	VCPUs     int    `json:"vcpu_count"`
	MemoryMiB int    `json:"mem_size_mib"`
	SMT       bool   `json:"smt"`
	Track     bool   `json:"track_dirty_pages"`
	HugePages string `json:"huge_pages"`
}

type bootSource struct {
	Kernel string `json:"kernel_image_path"`
	Initrd string `json:"initrd_path,omitempty"`
	Args   string `json:"boot_args,omitempty"`
}

type drive struct {
	ID       string          `json:"drive_id"`
	Root     bool            `json:"is_root_device"`
	Path     string          `json:"path_on_host,omitempty"`
	ReadOnly bool            `json:"is_read_only"`
	Cache    string          `json:"cache_type,omitempty"`
	Engine   string          `json:"io_engine,omitempty"`
	Socket   string          `json:"socket,omitempty"`
	Partuuid string          `json:"partuuid,omitempty"`
	Limit    json.RawMessage `json:"rate_limiter,omitempty"`
}

type network struct {
	ID  string          `json:"iface_id"`
	Dev string          `json:"host_dev_name"`
	MAC string          `json:"guest_mac,omitempty"`
	MTU int             `json:"mtu,omitempty"`
	RX  json.RawMessage `json:"rx_rate_limiter,omitempty"`
	TX  json.RawMessage `json:"tx_rate_limiter,omitempty"`
}

type vsock struct {
	CID  uint32 `json:"guest_cid"`
	Path string `json:"uds_path"`
}

type balloon struct {
	MiB       int  `json:"amount_mib"`
	Deflate   bool `json:"deflate_on_oom"`
	Stats     int  `json:"stats_polling_interval_s"`
	Hinting   bool `json:"free_page_hinting"`
	Reporting bool `json:"free_page_reporting"`
}

type mmdsConfig struct {
	Version string   `json:"version"`
	Nets    []string `json:"network_interfaces"`
	Address string   `json:"ipv4_address,omitempty"`
	IMDS    bool     `json:"imds_compat,omitempty"`
}

type hotplug struct {
	Total     int `json:"total_size_mib"`
	Slot      int `json:"slot_size_mib"`
	Block     int `json:"block_size_mib"`
	Requested int `json:"-"`
}

func newMachine(id string, stdout io.Writer) *machine {
	return &machine{
		id: id, stdout: stdout, state: notStarted, ended: make(chan struct{}), mmds: json.RawMessage("{}"),
		config: config{
			Machine: machineConfig{VCPUs: 1, MemoryMiB: 128, HugePages: "None"},
			Drives:  []*drive{}, Nets: []*network{}, Pmem: []json.RawMessage{},
		},
	}
}

func (m *machine) end() { m.ending.Do(func() { close(m.ended) }) }

func (m *machine) drive(id string) *drive {
	if i := slices.IndexFunc(m.config.Drives, func(d *drive) bool { return d.ID == id }); i >= 0 {
		return m.config.Drives[i]
	}
	return nil
}

func (m *machine) network(id string) *network {
	if i := slices.IndexFunc(m.config.Nets, func(n *network) bool { return n.ID == id }); i >= 0 {
		return m.config.Nets[i]
	}
	return nil
}

// openable tells what opening a file would say, in the words of Rust.
func openable(path string, flags int) error {
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return osError(err)
	}
	return f.Close()
}

func osError(err error) error {
	errno, ok := errors.AsType[syscall.Errno](err)
	if !ok {
		return err
	}
	text := errno.Error()
	return refuse("%c%s (os error %d)", text[0]-'a'+'A', text[1:], int(errno))
}
