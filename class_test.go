package nimbus

import (
	"errors"
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
		"same label twice":  {labels: []string{"nimbus", "cpu:2", "cpu:2"}, want: class(func(c *Class) { c.CPUs = 2 })},
		"unknown":           {labels: []string{"nimbus", "windows"}, reason: ReasonUnknownLabel, says: `"windows"`},
		"two sizes":         {labels: []string{"nimbus", "cpu:2", "cpu:4"}, reason: ReasonContradiction, says: "only one number of CPUs"},
		"two architectures": {labels: []string{"nimbus", "x64", "arm64"}, reason: ReasonContradiction, says: "architecture"},
		"zero":              {labels: []string{"nimbus", "cpu:0"}, reason: ReasonUnknownLabel, says: "from 1 to"},
		"no number":         {labels: []string{"nimbus", "memory:lots"}, reason: ReasonUnknownLabel, says: "whole number"},
		"path in image":     {labels: []string{"nimbus", "image:../../etc"}, reason: ReasonUnknownLabel, says: "image:../../etc"},
		"empty image":       {labels: []string{"nimbus", "image:"}, reason: ReasonUnknownLabel},
		"endless label":     {labels: []string{"nimbus", strings.Repeat("x", 5000)}, reason: ReasonUnknownLabel, says: "(5000 bytes)"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseLabels(tt.labels)
			if tt.reason == "" {
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
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

func TestClassIDTellsEveryFieldApart(t *testing.T) {
	t.Parallel()
	base := Class{Executor: "microvm", Image: "runner", Arch: "amd64", CPUs: 1, MemoryMiB: 1024, Network: NetworkInternet}
	seen := map[string]Class{base.ID(): base}
	for _, change := range []func(*Class){
		func(c *Class) { c.Executor = "local" },
		func(c *Class) { c.Image = "other" },
		func(c *Class) { c.Arch = "" },
		func(c *Class) { c.CPUs = 2 },
		func(c *Class) { c.MemoryMiB = 2048 },
		func(c *Class) { c.Network = NetworkNone },
		func(c *Class) { c.Executor, c.Image = "microvm\" \"runner", "" },
	} {
		c := base
		change(&c)
		if other, ok := seen[c.ID()]; ok {
			t.Errorf("%v and %v have one id", c, other)
		}
		seen[c.ID()] = c
	}
}

func FuzzParseLabels(f *testing.F) {
	for _, s := range []string{"nimbus", "cpu:4", "image:python:3.12", "memory:8", "network:none", ":", "image:a/../b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, label string) {
		c, err := ParseLabels([]string{OwnLabel, label})
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
	})
}
