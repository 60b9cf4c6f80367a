package store

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// TestStoredJSONIsStable keeps the rows of older versions readable: what is
// stored as JSON goes by the names of Go fields, and renaming one would lose
// what it held. Add to these texts, never change what is in them.
func TestStoredJSONIsStable(t *testing.T) {
	t.Parallel()
	code := 3
	for _, try := range []struct {
		value any
		want  string
	}{
		{nimbus.Class{Executor: "microvm", Image: "runner", Arch: "amd64", CPUs: 2, MemoryMiB: 512, Network: "none"},
			`{"Executor":"microvm","Image":"runner","Arch":"amd64","CPUs":2,"MemoryMiB":512,"Network":"none"}`},
		{nimbus.Class{Executor: "gpu", Image: "runner", CPUs: 2, MemoryMiB: 512, Network: "none", GPUs: 2, GPUProfile: "h100", Needs: "cuda pytorch"},
			`{"Executor":"gpu","Image":"runner","Arch":"","CPUs":2,"MemoryMiB":512,"Network":"none","GPUs":2,"GPUProfile":"h100","Needs":"cuda pytorch"}`},
		{nimbus.Spec{Command: []string{"a"}, Env: map[string]string{"K": "V"}, WorkspaceID: "w", Timeout: time.Second, Repeatable: true},
			`{"Command":["a"],"Env":{"K":"V"},"WorkspaceID":"w","Timeout":1000000000,"Repeatable":true}`},
		{nimbus.GitHubJob{InstallationID: 1, Owner: "o", Repo: "r", JobID: 2, RunID: 3, RunAttempt: 4, WorkflowName: "w", HeadBranch: "b", HeadSHA: "s", HTMLURL: "u"},
			`{"InstallationID":1,"Owner":"o","Repo":"r","JobID":2,"RunID":3,"RunAttempt":4,"WorkflowName":"w","HeadBranch":"b","HeadSHA":"s","HTMLURL":"u"}`},
		{nimbus.Inventory{Arch: "amd64", CPUs: 1, MemoryMiB: 2, Executors: []nimbus.ExecutorStatus{{Name: "local", Available: true, Detail: "d", Hint: "h"}}},
			`{"Arch":"amd64","CPUs":1,"MemoryMiB":2,"Executors":[{"Name":"local","Available":true,"Detail":"d","Hint":"h"}]}`},
		{nimbus.Inventory{Arch: "amd64", CPUs: 1, MemoryMiB: 2, CPUModel: "m", Capabilities: []string{"kvm"}, Sandboxes: 3,
			GPUs: []nimbus.GPUGroup{{Profile: "h100", Model: "NVIDIA H100", MemoryMiB: 4, Count: 5}}},
			`{"Arch":"amd64","CPUs":1,"MemoryMiB":2,"Executors":null,"CPUModel":"m",` +
				`"GPUs":[{"Profile":"h100","Model":"NVIDIA H100","MemoryMiB":4,"Count":5}],"Capabilities":["kvm"],"Sandboxes":3}`},
		{nimbus.Capacity{CPUs: 1, MemoryMiB: 2, Sandboxes: 3, GPUs: map[string]int{"h100": 4}, Warm: []string{"cls_x"}},
			`{"CPUs":1,"MemoryMiB":2,"Sandboxes":3,"GPUs":{"h100":4},"Warm":["cls_x"]}`},
		{nimbus.Outcome{Result: "failure", ExitCode: &code, Signal: "SIGKILL", Reason: nimbus.Reason{Code: "c", Message: "m"}, LogLines: 4,
			Usage: nimbus.Usage{CPUTime: 1, MaxRSSBytes: 2, DiskBytes: 3, WallDuration: 4}, BeforeStart: true},
			`{"Result":"failure","ExitCode":3,"Signal":"SIGKILL","Reason":{"Code":"c","Message":"m"},"LogLines":4,` +
				`"Usage":{"CPUTime":1,"MaxRSSBytes":2,"DiskBytes":3,"WallDuration":4},"BeforeStart":true}`},
	} {
		got, err := json.Marshal(try.value)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != try.want {
			t.Errorf("%T is stored as\n%s, was\n%s", try.value, got, try.want)
		}
	}
}
