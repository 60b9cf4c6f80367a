package driver

// MockState is what the GPUs of a mock do, by their index. It is in a file that
// is read anew at each look, so that a test can have them go bad.
type MockState struct {
	// MIG are GPUs that are cut into slices, and how many of 1g.5gb each has.
	MIG map[int]int `json:"mig,omitempty"`
	// GPUs is what each does; those that are not in it are idle and sound.
	GPUs map[int]MockGPU `json:"gpus,omitempty"`
	// Missing is why there are none: a Return of NVML.
	Missing int32 `json:"missing,omitempty"`
}

// MockGPU is what one of them does.
type MockGPU struct {
	PIDs           []int  `json:"pids,omitempty"`
	MemoryMiB      int    `json:"memory_mib,omitempty"`
	BusyPercent    int    `json:"busy_percent,omitempty"`
	Watts          int    `json:"watts,omitempty"`
	Celsius        int    `json:"celsius,omitempty"`
	UncorrectedECC uint64 `json:"uncorrected_ecc,omitempty"`
	XID            uint64 `json:"xid,omitempty"`
	Lost           bool   `json:"lost,omitempty"`
}
