package nimbus

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseLabels(t *testing.T) {
	t.Parallel()
	class := func(change func(*Class)) Class {
		c := Class{Image: DefaultImage, CPUs: DefaultCPUs, MemoryMiB: DefaultMemoryMiB, Network: NetworkInternet}
		change(&c)
		return c
	}
	tests := map[string]struct {
		labels []string
		want   Class
		kept   map[string]string
		reason ReasonCode
		says   string
	}{
		"plain":           {labels: []string{"nimbus"}, want: class(func(*Class) {})},
		"case is ignored": {labels: []string{"Nimbus", "Linux", "X64"}, want: class(func(c *Class) { c.Arch = "amd64" })},
		"sizes": {
			labels: []string{"nimbus", "cpu:4", "memory:8"},
			want:   class(func(c *Class) { c.CPUs = 4; c.MemoryMiB = 8192 }),
		},
		"image with tag": {
			labels: []string{"nimbus", "image:python:3.12"},
			want:   class(func(c *Class) { c.Image = "python:3.12" }),
		},
		"executor and network": {
			labels: []string{"nimbus", "local", "network:none"},
			want:   class(func(c *Class) { c.Executor = ExecutorLocal; c.Network = NetworkNone }),
		},
		"names to reach": {
			labels: []string{"nimbus", "reach:Example.org", "reach:*.example.com", "network:names", "reach:example.org."},
			want:   class(func(c *Class) { c.Network, c.Reach = NetworkNames, "*.example.com example.org" }),
		},
		"same label twice": {labels: []string{"nimbus", "cpu:2", "cpu:2"}, want: class(func(c *Class) { c.CPUs = 2 })},
		"size words": {
			labels: []string{"nimbus", "cpu-medium", "cpu-high", "memory-high"},
			want:   class(func(c *Class) { c.CPUs, c.MemoryMiB = 8, 32<<10 }),
		},
		"size word and more": {
			labels: []string{"nimbus", "cpu:16", "cpu-high"},
			want:   class(func(c *Class) { c.CPUs = 16 }),
		},
		"docker": {
			labels: []string{"nimbus", "docker", "image:node:18-alpine"},
			want:   class(func(c *Class) { c.Executor, c.Image = ExecutorDocker, "node:18-alpine" }),
		},
		"firecracker": {labels: []string{"nimbus", "firecracker"}, want: class(func(c *Class) { c.Executor = ExecutorFirecracker })},
		"one GPU":     {labels: []string{"nimbus", "gpu"}, want: class(func(c *Class) { c.Executor, c.GPUs = ExecutorGPU, 1 })},
		"GPUs": {
			labels: []string{"nimbus", "gpu", "pytorch", "gpu-count:2", "gpu-profile:1g.10gb", "gpu-image:vllm:latest", "cuda-12.4"},
			want: class(func(c *Class) {
				c.Executor, c.Image, c.GPUs, c.GPUProfile, c.Needs = ExecutorGPU, "vllm:latest", 2, "1g.10gb", "cuda-12.4 pytorch"
			}),
		},
		"a slice": {
			labels: []string{"nimbus", "mig:1g.10gb"},
			want:   class(func(c *Class) { c.Executor, c.GPUs, c.GPUProfile = ExecutorGPU, 1, "1g.10gb" }),
		},
		"a GPU word alone asks for the executor": {
			labels: []string{"nimbus", "gpu-profile:h100"},
			want:   class(func(c *Class) { c.Executor, c.GPUs, c.GPUProfile = ExecutorGPU, 1, "h100" }),
		},
		"capabilities in any order": {
			labels: []string{"nimbus", "storage-nvme", "cap:dongle", "AVX2", "avx2"},
			want:   class(func(c *Class) { c.Needs = "avx2 dongle storage-nvme" }),
		},
		"metadata": {
			labels: []string{"nimbus", "param:Model=Llama-3=x", "PARAM:seed= 7", "meta:nightly"},
			want:   class(func(*Class) {}), kept: map[string]string{"model": "Llama-3=x", "seed": "7", "nightly": ""},
		},
		"unknown":                       {labels: []string{"nimbus", "windows"}, reason: ReasonUnknownLabel, says: `"windows"`},
		"unknown is told what there is": {labels: []string{"nimbus", "quantum"}, reason: ReasonUnknownLabel, says: "gpu-count:N"},
		"slip of the pen":               {labels: []string{"nimbus", "pytroch"}, reason: ReasonUnknownLabel, says: "did you mean pytorch?"},
		"slip before a colon":           {labels: []string{"nimbus", "cpus:4"}, reason: ReasonUnknownLabel, says: "did you mean cpu:N?"},
		"family without more":           {labels: []string{"nimbus", "cuda-"}, reason: ReasonUnknownLabel},
		"two executors":                 {labels: []string{"nimbus", "docker", "firecracker"}, reason: ReasonContradiction, says: "only one executor"},
		"GPUs in docker":                {labels: []string{"nimbus", "docker", "gpu-count:2"}, reason: ReasonContradiction, says: `both "docker" and "gpu-count:2"`},
		"two images":                    {labels: []string{"nimbus", "image:a", "gpu-image:b"}, reason: ReasonContradiction, says: "only one image"},
		"less than high":                {labels: []string{"nimbus", "cpu:2", "cpu-high"}, reason: ReasonContradiction, says: "cpu-high is for at least 8 CPUs"},
		"less memory than high":         {labels: []string{"nimbus", "memory-high", "memory:8"}, reason: ReasonContradiction, says: "at least 32 GiB of memory"},
		"two values":                    {labels: []string{"nimbus", "param:a=1", "param:a=2"}, reason: ReasonContradiction, says: "value of the parameter a"},
		"no value":                      {labels: []string{"nimbus", "param:a"}, reason: ReasonUnknownLabel, says: "KEY=VALUE"},
		"value in meta":                 {labels: []string{"nimbus", "meta:a=b"}, reason: ReasonUnknownLabel, says: "param:KEY=VALUE takes a value"},
		"lines in a value":              {labels: []string{"nimbus", "param:a=b\nc"}, reason: ReasonUnknownLabel, says: "KEY=VALUE"},
		"too many GPUs":                 {labels: []string{"nimbus", "gpu-count:65"}, reason: ReasonUnknownLabel, says: "from 1 to 64"},
		"no capability":                 {labels: []string{"nimbus", "cap:a b"}, reason: ReasonUnknownLabel, says: "wants a word"},
		"two sizes":                     {labels: []string{"nimbus", "cpu:2", "cpu:4"}, reason: ReasonContradiction, says: "only one number of CPUs"},
		"two architectures":             {labels: []string{"nimbus", "x64", "arm64"}, reason: ReasonContradiction, says: "architecture"},
		"names and internet":            {labels: []string{"nimbus", "network:internet", "reach:a.com"}, reason: ReasonContradiction, says: `both "network:internet" and "reach:a.com": a job can have only one network profile`},
		"names and nothing":             {labels: []string{"nimbus", "reach:a.com", "network:none"}, reason: ReasonContradiction, says: "only one network profile"},
		"no names":                      {labels: []string{"nimbus", "network:names"}, reason: ReasonContradiction, says: "add reach:NAME for each"},
		"an address to reach":           {labels: []string{"nimbus", "reach:10.0.0.1"}, reason: ReasonUnknownLabel, says: "wants a name after the colon, like reach:example.com"},
		"a URL to reach":                {labels: []string{"nimbus", "reach:https://a.com/"}, reason: ReasonUnknownLabel, says: "no scheme"},
		"a whole top level":             {labels: []string{"nimbus", "reach:*.com"}, reason: ReasonUnknownLabel, says: "wants a name"},
		"no such profile":               {labels: []string{"nimbus", "network:all"}, reason: ReasonUnknownLabel, says: "no valid network profile"},
		"too many names":                {labels: manyNames(MaxReach + 1), reason: ReasonContradiction, says: "at most 32 names"},
		"zero":                          {labels: []string{"nimbus", "cpu:0"}, reason: ReasonUnknownLabel, says: "from 1 to"},
		"no number":                     {labels: []string{"nimbus", "memory:lots"}, reason: ReasonUnknownLabel, says: "whole number"},
		"path in image":                 {labels: []string{"nimbus", "image:../../etc"}, reason: ReasonUnknownLabel, says: "image:../../etc"},
		"empty image":                   {labels: []string{"nimbus", "image:"}, reason: ReasonUnknownLabel},
		"endless label":                 {labels: []string{"nimbus", strings.Repeat("x", 5000)}, reason: ReasonUnknownLabel, says: "(5000 bytes)"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseLabels(tt.labels)
			if tt.reason == "" {
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(Requirements{Class: tt.want, Metadata: tt.kept}, got); diff != "" {
					t.Error(diff)
				}
				return
			}
			var bad *LabelError
			if !errors.As(err, &bad) {
				t.Fatalf("got %v, %v; want a LabelError", got, err)
			}
			if bad.Reason.Code != tt.reason || !strings.Contains(bad.Reason.Message, tt.says) {
				t.Errorf("got %q (%s), want %s with %q", bad.Reason.Message, bad.Reason.Code, tt.reason, tt.says)
			}
		})
	}
}

func FuzzParseLabels(f *testing.F) {
	for _, s := range []string{"nimbus", "cpu:4", "image:python:3.12", "memory:8", "network:none", ":", "image:a/../b", "gpu-count:2", "param:k=v", "meta:k", "cap:w", "pytroch"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, label string) {
		r, err := ParseLabels([]string{OwnLabel, label})
		c := r.Class
		if err != nil {
			var bad *LabelError
			if !errors.As(err, &bad) || bad.Reason.Message == "" {
				t.Fatalf("%q: %v is no LabelError with a sentence", label, err)
			}
			return
		}
		if strings.Contains(c.Image, "..") || strings.HasPrefix(c.Image, "/") || c.CPUs < 1 || c.MemoryMiB < 1 {
			t.Fatalf("%q made %+v", label, c)
		}
		if again, err := c.Complete(); err != nil || again != c {
			t.Fatalf("%q made %+v, which is not complete: %v", label, c, err)
		}
		if err := CheckMetadata(r.Metadata); err != nil {
			t.Fatalf("%q: %v", label, err)
		}
	})
}

func manyNames(n int) []string {
	labels := []string{"nimbus"}
	for i := range n {
		labels = append(labels, fmt.Sprintf("reach:n%d.example.com", i))
	}
	return labels
}
