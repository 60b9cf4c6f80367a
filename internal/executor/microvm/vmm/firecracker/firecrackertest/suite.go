package firecrackertest

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/firecracker"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/firecracker/api"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/firecracker/firecrackertest/apidesc"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/firecracker/pages"
)

// suite is one run.
type suite struct {
	target   Target
	coverage Coverage
}

// Run tries every call that Nimbus makes, and the ways in which each is refused,
// and returns what that covered.
func Run(t *testing.T, target Target) Report {
	t.Helper()
	s := &suite{target: target}
	t.Run("malformed", s.malformed)
	t.Run("configure", s.configure)
	t.Run("refused configuration", s.refusedConfiguration)
	t.Run("run", s.runs)
	if target.Guests {
		t.Run("devices", s.devices)
	}
	t.Run("snapshot", s.snapshot)
	t.Run("refused load", s.refusedLoad)
	t.Run("end", s.end)
	r, err := s.coverage.Report(target.Name)
	must(t, err)
	return r
}

// malformed sends bodies that no state makes good.
func (s *suite) malformed(t *testing.T) {
	m := s.start(t, t.TempDir(), nil)
	all, err := apidesc.Operations()
	must(t, err)
	for _, op := range all {
		path := strings.NewReplacer("{drive_id}", "x", "{iface_id}", "x", "{id}", "x").Replace(op.Path)
		if op.Method == http.MethodGet {
			m.Refuses(op.Method, path, `{}`, "GET request cannot have a body.")
			continue
		}
		if op.ID == "stopBalloonHinting" || op.ID == "putMmds" || op.ID == "patchMmds" {
			continue // they take nothing, or anything
		}
		m.Refuses(op.Method, path, `{"`, "An error occurred when deserializing the json body of a request")
		if op.ID != "putMetrics" && op.ID != "startBalloonHinting" { // those are left open by the real one
			m.Refuses(op.Method, path, `{"no_such_field":1}`, "no_such_field")
		}
		if op.ID != "startBalloonHinting" {
			m.Refuses(op.Method, path, ``, "Empty "+op.Method+" request.")
		}
	}
	for _, c := range [][4]string{
		{"PUT", "/machine-config", `{"mem_size_mib":128}`, "missing field `vcpu_count`"},
		{"PUT", "/machine-config", `{"vcpu_count":"two","mem_size_mib":128}`, "invalid type"},
		{"PUT", "/boot-source", `{"boot_args":"quiet"}`, "missing field `kernel_image_path`"},
		{"PUT", "/drives/x", `{"drive_id":"x"}`, "missing field `is_root_device`"},
		{"PUT", "/drives/x", `{"drive_id":"y","is_root_device":false,"path_on_host":"a","is_read_only":true}`, "does not match the id from the body"},
		{"PUT", "/drives/x-y", `{"drive_id":"x-y","is_root_device":false}`, "alphanumeric characters and underscores"},
		{"PUT", "/drives/x", `{"drive_id":"x","is_root_device":false,"io_engine":"Diesel"}`, "unknown variant"},
		{"PUT", "/drives/x", `{"drive_id":"x","is_root_device":false,"rate_limiter":{"ops":{"size":1}}}`, "missing field `refill_time`"},
		{"PUT", "/drives/x", `{"drive_id":"x","is_root_device":false,"rate_limiter":{"ops":{"size":-1,"refill_time":1}}}`, "invalid value"},
		{"PUT", "/drives/", `{"drive_id":"","is_root_device":false}`, "The ID cannot be empty."},
		{"PUT", "/network-interfaces/e", `{"iface_id":"e"}`, "missing field `host_dev_name`"},
		{"PUT", "/network-interfaces/e", `{"iface_id":"f","host_dev_name":"lo"}`, "does not match the id from the body"},
		{"PUT", "/network-interfaces/e", `{"iface_id":"e","host_dev_name":"lo","guest_mac":"aa:bb"}`, "The provided MAC address is invalid."},
		{"PUT", "/vsock", `{"uds_path":"v.sock"}`, "missing field `guest_cid`"},
		{"PUT", "/mmds/config", `{"version":"V2"}`, "missing field `network_interfaces`"},
		{"PUT", "/mmds/config", `{"version":"V3","network_interfaces":["e"]}`, "unknown variant"},
		{"PUT", "/actions", `{"action_type":"SelfDestruct"}`, "unknown variant"},
		{"PATCH", "/vm", `{"state":"Flying"}`, "unknown variant"},
		{"PUT", "/snapshot/create", `{"snapshot_path":"s"}`, "missing field `mem_file_path`"},
		{"PUT", "/snapshot/load", `{"snapshot_path":"s"}`, "missing field: either `mem_backend` or `mem_file_path` is required"},
		{"PUT", "/snapshot/load", `{"snapshot_path":"s","mem_file_path":"m","mem_backend":{"backend_type":"File","backend_path":"m"}}`, "too many fields"},
		{"PUT", "/snapshot/load", `{"snapshot_path":"s","mem_backend":{"backend_type":"Cloud","backend_path":"m"}}`, "unknown variant"},
		{"PUT", "/logger", `{"level":7}`, ""},
		{"PUT", "/metrics", `{}`, "missing field `metrics_path`"},
		{"PATCH", "/balloon", `{}`, "missing field `amount_mib`"},
		{"PATCH", "/balloon/statistics", `{}`, "missing field `stats_polling_interval_s`"},
		{"PUT", "/levitate", `{}`, "Invalid request method and/or path: PUT levitate."},
		{"GET", "/levitate", ``, "Invalid request method and/or path: GET levitate."},
	} {
		m.Refuses(c[0], c[1], c[2], c[3])
	}
}

// configure makes each call that sets up a machine, and reads back what it did.
func (s *suite) configure(t *testing.T) {
	m := s.start(t, t.TempDir(), nil)
	ctx := t.Context()
	i, err := m.Instance(ctx)
	if err != nil || i.State != api.StateNotStarted || i.ID != "suite" || i.App != "Firecracker" {
		t.Errorf("got %+v, %v", i, err)
	}
	if v, err := m.Version(ctx); err != nil || v != i.Version {
		t.Errorf("version %q, %v; the instance says %q", v, err, i.Version)
	}
	size := api.MachineConfig{VCPUs: 2, MemoryMiB: 64, HugePages: api.HugePagesNone}
	must(t, m.PutLogger(ctx, api.Logger{Path: file(t, m.Dir, "log"), Level: api.LevelWarning, ShowLevel: true}),
		m.PutMetrics(ctx, api.Metrics{Path: file(t, m.Dir, "metrics")}), m.PutMachineConfig(ctx, size))
	size.MemoryMiB = 32
	must(t, m.PatchMachineConfig(ctx, size))
	if got, err := m.MachineConfig(ctx); err != nil || got != size {
		t.Errorf("got %+v, %v; want %+v", got, err, size)
	}
	kernel(t, m.Dir, firecracker.TrialTicking)
	must(t,
		m.PutBootSource(ctx, api.BootSource{Kernel: "kernel", Initrd: file(t, m.Dir, "initrd"), Arguments: "console=ttyS0"}),
		m.PutDrive(ctx, api.Drive{ID: "disk0", Path: file(t, m.Dir, "disk0"), ReadOnly: true, Cache: api.CacheUnsafe, Engine: api.EngineSync}),
		m.PutDrive(ctx, api.Drive{ID: "disk1", Path: file(t, m.Dir, "disk1"), Cache: api.CacheWriteback, Limit: api.PerSecond(1<<20, 100)}),
		m.PutVsock(ctx, api.Vsock{GuestCID: 3, Path: "v.sock"}),
		m.PutEntropy(ctx, api.Entropy{Limit: api.PerSecond(1<<20, 0)}),
		m.PutSerial(ctx, api.Serial{Limit: &api.TokenBucket{Size: 1 << 20, RefillMS: 1000}}),
		m.PutBalloon(ctx, api.Balloon{DeflateOnOOM: true, StatsSeconds: 1}),
		m.PutMMDS(ctx, []byte(`{"a":{"b":1,"c":2}}`)), m.PatchMMDS(ctx, []byte(`{"a":{"c":null,"d":3}}`)))
	if b, err := m.Balloon(ctx); err != nil || b.StatsSeconds != 1 || !b.DeflateOnOOM {
		t.Errorf("got %+v, %v", b, err)
	}
	if raw, err := m.MMDS(ctx); err != nil || string(raw) != `{"a":{"b":1,"d":3}}` {
		t.Errorf("got %s, %v", raw, err)
	}
	if raw, err := m.Config(ctx); err != nil || !strings.Contains(string(raw), `"disk1"`) || !strings.Contains(string(raw), `"v.sock"`) {
		t.Errorf("got %s, %v", raw, err)
	}
	if tap := Tap(t); tap != "" {
		must(t, m.PutNetworkInterface(ctx, api.NetworkInterface{ID: "eth0", HostDev: tap, MAC: "02:fc:00:00:00:02", MTU: 1500, Receive: api.PerSecond(1<<20, 0)}),
			m.PutMMDSConfig(ctx, api.MMDSConfig{Version: api.MMDSv2, Interfaces: []string{"eth0"}}))
		m.Refuses("PUT", "/network-interfaces/eth1", `{"iface_id":"eth1","host_dev_name":"`+tap+`","guest_mac":"02:fc:00:00:00:02"}`, "The MAC address is already in use: 02:fc:00:00:00:02")
		m.Refuses("PUT", "/mmds/config", `{"version":"V2","network_interfaces":["eth9"]}`, "does not correspond to any existing network interface")
		m.Refuses("PUT", "/mmds/config", `{"version":"V2","network_interfaces":["eth0"],"ipv4_address":"8.8.8.8"}`, "not link local")
	}
	m.Accepts("PUT", "/cpu-config", `{}`)
	m.Accepts("PUT", "/hotplug/memory", `{"total_size_mib":256,"slot_size_mib":128}`)
	must(t, os.Truncate(filepath.Join(m.Dir, file(t, m.Dir, "pmem")), 2<<20))
	m.Accepts("PUT", "/pmem/pmem0", `{"id":"pmem0","path_on_host":"pmem"}`)
}

// refusedConfiguration asks for what can't be, or not yet.
func (s *suite) refusedConfiguration(t *testing.T) {
	m := s.start(t, t.TempDir(), nil)
	const early = "The requested operation is not supported before starting the microVM."
	for _, c := range [][3]string{
		{"PATCH", "/vm", `{"state":"Paused"}`},
		{"PUT", "/snapshot/create", `{"snapshot_path":"s","mem_file_path":"m"}`},
		{"PUT", "/actions", `{"action_type":"FlushMetrics"}`},
		{"PUT", "/actions", `{"action_type":"SendCtrlAltDel"}`},
		{"GET", "/balloon/statistics", ``},
		{"PATCH", "/balloon", `{"amount_mib":1}`},
		{"PATCH", "/balloon/statistics", `{"stats_polling_interval_s":1}`},
		{"PATCH", "/balloon/hinting/start", `{}`},
		{"PATCH", "/balloon/hinting/stop", ``},
		{"GET", "/balloon/hinting/status", ``},
		{"PATCH", "/drives/x", `{"drive_id":"x"}`},
		{"PATCH", "/network-interfaces/x", `{"iface_id":"x"}`},
		{"PATCH", "/pmem/x", `{"id":"x"}`},
		{"PATCH", "/hotplug/memory", `{"requested_size_mib":1}`},
		{"GET", "/hotplug/memory", ``},
	} {
		m.Refuses(c[0], c[1], c[2], early)
	}
	file(t, m.Dir, "metrics")
	file(t, m.Dir, "disk")
	m.Accepts("PUT", "/metrics", `{"metrics_path":"metrics"}`)
	m.Accepts("PUT", "/drives/a", `{"drive_id":"a","is_root_device":true,"is_read_only":true,"path_on_host":"disk"}`)
	for _, c := range [][4]string{
		{"PUT", "/actions", `{"action_type":"InstanceStart"}`, "Cannot start microvm without kernel configuration."},
		{"PUT", "/machine-config", `{"vcpu_count":33,"mem_size_mib":64}`, "The number of vCPUs must be greater than 0"},
		{"PUT", "/machine-config", `{"vcpu_count":3,"mem_size_mib":64,"smt":true}`, "must be 1 or an even number"},
		{"PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":0}`, "The memory size (MiB) is either 0"},
		{"PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":65,"huge_pages":"2M"}`, "not a multiple of the configured page size"},
		{"PATCH", "/machine-config", `{"vcpu_count":0,"mem_size_mib":64}`, "The number of vCPUs must be greater than 0"},
		{"PUT", "/boot-source", `{"kernel_image_path":"nowhere"}`, "The kernel file cannot be opened: No such file or directory (os error 2)"},
		{"PUT", "/boot-source", `{"kernel_image_path":"disk","initrd_path":"nowhere"}`, "The initrd file cannot be opened due to invalid path or invalid permissions. No such file or directory (os error 2)"},
		{"PUT", "/drives/b", `{"drive_id":"b","is_root_device":false,"is_read_only":true,"path_on_host":"nowhere"}`, "Unable to create the virtio block device: Virtio backend error: Error manipulating the backing file: No such file or directory (os error 2) nowhere"},
		{"PUT", "/drives/b", `{"drive_id":"b","is_root_device":true,"is_read_only":true,"path_on_host":"disk"}`, "A root block device already exists!"},
		{"PUT", "/network-interfaces/e", `{"iface_id":"e","host_dev_name":"a_tap_that_is_far_too_long"}`, "Open tap device failed"},
		{"PUT", "/mmds/config", `{"version":"V2","network_interfaces":[]}`, "The list of network interface IDs that allow forwarding MMDS requests is empty."},
		{"PUT", "/metrics", `{"metrics_path":"metrics"}`, "Reinitialization of metrics not allowed."},
		{"PUT", "/metrics", `{"metrics_path":"no/folder"}`, "Cannot initialize the metrics system due to bad user input"},
		{"PUT", "/logger", `{"log_path":"no/folder"}`, "No such file or directory (os error 2)"},
		{"PUT", "/vsock", `{"guest_cid":3,"uds_path":"no/folder"}`, "Cannot create backend for vsock device"},
		{"GET", "/balloon", ``, "No balloon device found."},
		{"PUT", "/balloon", `{"amount_mib":100000,"deflate_on_oom":true}`, "Amount of pages requested is too large."},
		{"PUT", "/snapshot/load", `{"snapshot_path":"s","mem_backend":{"backend_type":"File","backend_path":"m"}}`, "Loading a microVM snapshot not allowed after configuring boot-specific resources."},
	} {
		m.Refuses(c[0], c[1], c[2], c[3])
	}
	m.Accepts("PUT", "/mmds", `{"a":"`+strings.Repeat("x", 40_000)+`"}`)
	m.Refuses("PATCH", "/mmds", `{"b":"`+strings.Repeat("y", 20_000)+`"}`, "doesn't fit")
	if i, err := m.Instance(t.Context()); err != nil || i.State != api.StateNotStarted {
		t.Errorf("after all that: %+v, %v", i, err)
	}
}

// boot starts a small machine that ticks.
func (s *suite) boot(t *testing.T, dir string) *Monitor {
	t.Helper()
	m := s.start(t, dir, nil)
	ctx := t.Context()
	kernel(t, dir, firecracker.TrialTicking)
	must(t, m.PutMachineConfig(ctx, api.MachineConfig{VCPUs: 1, MemoryMiB: 16}),
		m.PutBootSource(ctx, api.BootSource{Kernel: "kernel", Arguments: "console=ttyS0"}),
		m.PutDrive(ctx, api.Drive{ID: "disk0", Path: file(t, dir, "disk0")}),
		m.PutVsock(ctx, api.Vsock{GuestCID: 3, Path: "v.sock"}),
		m.PutBalloon(ctx, api.Balloon{DeflateOnOOM: true, StatsSeconds: 1}),
		m.PutMetrics(ctx, api.Metrics{Path: file(t, dir, "metrics")}),
		m.Start(ctx))
	m.await("the guest's word", func() bool { return strings.Contains(m.console.String(), firecracker.TrialWord) })
	return m
}

// ticks waits until a running guest has shown that it runs.
func (m *Monitor) ticks() {
	m.t.Helper()
	before := strings.Count(m.console.String(), ".")
	m.await("another tick", func() bool { return strings.Count(m.console.String(), ".") > before })
}

// runs does what can be done with a running machine.
func (s *suite) runs(t *testing.T) {
	m := s.boot(t, t.TempDir())
	ctx := t.Context()
	m.ticks()
	const late = "The requested operation is not supported after starting the microVM."
	for _, c := range [][3]string{
		{"PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":16}`},
		{"PATCH", "/machine-config", `{"vcpu_count":1,"mem_size_mib":16}`},
		{"PUT", "/boot-source", `{"kernel_image_path":"kernel"}`},
		{"PUT", "/vsock", `{"guest_cid":3,"uds_path":"w.sock"}`},
		{"PUT", "/entropy", `{}`},
		{"PUT", "/serial", `{}`},
		{"PUT", "/cpu-config", `{}`},
		{"PUT", "/balloon", `{"amount_mib":1,"deflate_on_oom":true}`},
		{"PUT", "/logger", `{}`},
		{"PUT", "/metrics", `{"metrics_path":"metrics"}`},
		{"PUT", "/mmds/config", `{"network_interfaces":["e"]}`},
		{"PUT", "/hotplug/memory", `{"total_size_mib":128}`},
		{"PUT", "/actions", `{"action_type":"InstanceStart"}`},
		{"PUT", "/snapshot/load", `{"snapshot_path":"s","mem_backend":{"backend_type":"File","backend_path":"m"}}`},
	} {
		m.Refuses(c[0], c[1], c[2], late)
	}
	for _, c := range [][4]string{
		{"PATCH", "/drives/disk9", `{"drive_id":"disk9","path_on_host":"disk0"}`, ""},
		{"PATCH", "/drives/disk0", `{"drive_id":"disk0","path_on_host":"nowhere"}`, "No such file or directory"},
		{"PATCH", "/network-interfaces/eth9", `{"iface_id":"eth9"}`, "Unable to update the net device"},
		{"PATCH", "/pmem/p9", `{"id":"p9","rate_limiter":{}}`, ""},
		{"PATCH", "/balloon", `{"amount_mib":4096}`, ""},
		{"PATCH", "/balloon/statistics", `{"stats_polling_interval_s":0}`, "Statistics cannot be enabled/disabled after activation."},
		{"PATCH", "/balloon/hinting/start", `{}`, ""},
		{"PATCH", "/balloon/hinting/stop", ``, ""},
		{"GET", "/balloon/hinting/status", ``, ""},
		{"GET", "/hotplug/memory", ``, ""},
		{"PATCH", "/hotplug/memory", `{"requested_size_mib":1}`, ""},
		{"PUT", "/mmds", `{}`, "The MMDS data store is not initialized."},
		{"PATCH", "/mmds", `{}`, "The MMDS data store is not initialized."},
		{"GET", "/mmds", ``, "The MMDS data store is not initialized."},
		{"PUT", "/drives/disk5", `{"drive_id":"disk5","is_root_device":false,"is_read_only":true,"path_on_host":"disk0"}`, "PCI"},
		{"PUT", "/network-interfaces/e5", `{"iface_id":"e5","host_dev_name":"lo"}`, "PCI"},
		{"PUT", "/pmem/p5", `{"id":"p5","path_on_host":"disk0"}`, "PCI"},
	} {
		m.Refuses(c[0], c[1], c[2], c[3])
	}
	must(t,
		m.PatchDrive(ctx, api.DriveUpdate{ID: "disk0", Path: "disk0", Limit: api.PerSecond(1<<20, 10)}),
		m.PatchBalloonStats(ctx, 5), m.FlushMetrics(ctx), m.SendCtrlAltDel(ctx),
		m.Pause(ctx), m.Pause(ctx)) // twice is once
	if i, err := m.Instance(ctx); err != nil || i.State != api.StatePaused {
		t.Errorf("got %+v, %v", i, err)
	}
	if raw, err := os.ReadFile(filepath.Join(m.Dir, "metrics")); s.target.Name != "double" && (err != nil || len(raw) == 0) {
		t.Errorf("flushed metrics: %d bytes, %v", len(raw), err)
	}
	must(t, m.Resume(ctx), m.Resume(ctx))
	m.ticks()
}

// devices changes those that only a guest with drivers has up.
func (s *suite) devices(t *testing.T) {
	m := s.start(t, t.TempDir(), nil)
	ctx := t.Context()
	kernel(t, m.Dir, firecracker.TrialTicking)
	must(t, m.PutMachineConfig(ctx, api.MachineConfig{VCPUs: 1, MemoryMiB: 16}), m.PutBootSource(ctx, api.BootSource{Kernel: "kernel"}),
		m.PutBalloon(ctx, api.Balloon{DeflateOnOOM: true, StatsSeconds: 1, Hinting: true, Reporting: true}))
	m.Accepts("PUT", "/hotplug/memory", `{"total_size_mib":256,"slot_size_mib":128}`)
	m.Accepts("PUT", "/pmem/pmem0", `{"id":"pmem0","path_on_host":"`+file(t, m.Dir, "pmem")+`"}`)
	tap := Tap(t)
	if tap != "" {
		must(t, m.PutNetworkInterface(ctx, api.NetworkInterface{ID: "eth0", HostDev: tap}),
			m.PutMMDSConfig(ctx, api.MMDSConfig{Version: api.MMDSv2, Interfaces: []string{"eth0"}}))
	}
	must(t, m.Start(ctx), m.ResizeBalloon(ctx, 4))
	if stats, err := m.BalloonStats(ctx); err != nil || stats.TargetMiB != 4 || stats.TargetPages != 1024 {
		t.Errorf("got %+v, %v", stats, err)
	}
	m.Accepts("PATCH", "/balloon/hinting/start", `{"acknowledge_on_stop":true}`)
	m.Accepts("GET", "/balloon/hinting/status", ``)
	m.Accepts("PATCH", "/balloon/hinting/stop", ``)
	m.Accepts("PATCH", "/hotplug/memory", `{"requested_size_mib":128}`)
	m.Accepts("GET", "/hotplug/memory", ``)
	m.Accepts("PATCH", "/pmem/pmem0", `{"id":"pmem0","rate_limiter":{}}`)
	if tap != "" {
		must(t, m.PatchNetworkInterface(ctx, api.NetworkInterfaceUpdate{ID: "eth0", Send: api.PerSecond(1<<20, 0)}),
			m.PutMMDS(ctx, []byte(`{"a":1}`)))
		if raw, err := m.MMDS(ctx); err != nil || string(raw) != `{"a":1}` {
			t.Errorf("got %s, %v", raw, err)
		}
	}
}

// snapshot saves a machine, and makes two others of it: one of the file, one by
// a page server.
func (s *suite) snapshot(t *testing.T) {
	dir := t.TempDir()
	m := s.boot(t, dir)
	ctx := t.Context()
	m.Refuses("PUT", "/snapshot/create", `{"snapshot_path":"state","mem_file_path":"memory"}`, "Create snapshot error: Cannot save the microVM state")
	must(t, m.Pause(ctx))
	m.Refuses("PUT", "/snapshot/create", `{"snapshot_path":"state","mem_file_path":"no/folder"}`, "on the memory backing file: No such file or directory (os error 2)")
	m.Refuses("PUT", "/snapshot/create", `{"snapshot_path":"no/folder","mem_file_path":"memory"}`, "on the snapshot backing file: No such file or directory (os error 2)")
	must(t, m.CreateSnapshot(ctx, api.SnapshotCreate{State: "state", Memory: "memory", Type: api.SnapshotFull}),
		m.CreateSnapshot(ctx, api.SnapshotCreate{State: "state-diff", Memory: "memory-diff", Type: api.SnapshotDiff}),
		m.cmd.Process.Kill())
	<-m.ended
	must(t, os.Remove(filepath.Join(dir, "v.sock")))

	load := api.SnapshotLoad{State: "state", Memory: api.MemoryBackend{Type: api.BackendFile, Path: "memory"}}
	m = s.start(t, dir, nil)
	must(t, m.LoadSnapshot(ctx, load))
	if i, err := m.Instance(ctx); err != nil || i.State != api.StatePaused {
		t.Errorf("got %+v, %v", i, err)
	}
	must(t, m.Resume(ctx))
	m.ticks()
	must(t, m.cmd.Process.Kill())
	<-m.ended
	must(t, os.Remove(filepath.Join(dir, "v.sock")))

	spec := filepath.Join(dir, "pages.json")
	m = s.start(t, dir, func(command []string) []string {
		must(t, pages.Spec{
			SocketDir: dir, SocketName: "pages.sock", UID: os.Geteuid(), Memory: filepath.Join(dir, "memory"), Command: command,
		}.Write(spec))
		return []string{s.target.Shim, pages.Flag, spec}
	})
	load.Memory = api.MemoryBackend{Type: api.BackendUffd, Path: "pages.sock"}
	load.Vsock, load.ClockRealtime, load.Resume = &api.VsockOverride{Path: "w.sock"}, true, true
	must(t, m.LoadSnapshot(ctx, load))
	if i, err := m.Instance(ctx); err != nil || i.State != api.StateRunning {
		t.Errorf("got %+v, %v", i, err)
	}
	m.ticks()
	if _, err := os.Stat(filepath.Join(dir, "w.sock")); err != nil {
		t.Error(err)
	}
}

// refusedLoad loads what can't be loaded: the monitor says why, and ends.
func (s *suite) refusedLoad(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "garbage"), []byte(strings.Repeat("garbage", 1000)), 0o600))
	for body, want := range map[string]string{
		`{"snapshot_path":"nowhere","mem_backend":{"backend_type":"File","backend_path":"m"}}`: "No such file or directory (os error 2)",
		`{"snapshot_path":"garbage","mem_backend":{"backend_type":"File","backend_path":"m"}}`: "Failed to get snapshot state from file",
	} {
		m := s.start(t, dir, nil)
		m.Refuses("PUT", "/snapshot/load", body, want)
		select {
		case <-m.ended:
		case <-time.After(patience):
			t.Error("the monitor goes on with half a machine")
		}
	}
}

// end boots a guest that resets its machine: the monitor ends with success.
func (s *suite) end(t *testing.T) {
	dir := t.TempDir()
	m := s.start(t, dir, nil)
	kernel(t, dir, firecracker.TrialPlain)
	ctx := t.Context()
	must(t, m.PutMachineConfig(ctx, api.MachineConfig{VCPUs: 1, MemoryMiB: 16}),
		m.PutBootSource(ctx, api.BootSource{Kernel: "kernel"}), m.Start(ctx))
	select {
	case <-m.ended:
	case <-time.After(patience):
		t.Fatal("the monitor goes on")
	}
	if code := m.cmd.ProcessState.ExitCode(); code != 0 || !strings.Contains(m.console.String(), firecracker.TrialWord) {
		t.Errorf("exit code %d: %s", code, m.console)
	}
}

// file makes an empty file of 4 KiB.
func file(t *testing.T, dir, name string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}
