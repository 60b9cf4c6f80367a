package library

import (
	"slices"
	"strings"

	"github.com/nimbus-ci/nimbus"
)

// DefaultAliases are short names for images that many jobs want. A host's own
// come before them.
func DefaultAliases() map[string]string {
	return map[string]string{
		"ubuntu-2404": "docker.io/library/ubuntu:24.04",
		"ubuntu-2204": "docker.io/library/ubuntu:22.04",
		"debian-12":   "docker.io/library/debian:12",
		"debian-13":   "docker.io/library/debian:13",
		"node":        "docker.io/library/node:24-bookworm",
		"node-22":     "docker.io/library/node:22-bookworm",
		"node-24":     "docker.io/library/node:24-bookworm",
		"python":      "docker.io/library/python:3.13-bookworm",
		"python-312":  "docker.io/library/python:3.12-bookworm",
		"python-313":  "docker.io/library/python:3.13-bookworm",
		"go-126":      "docker.io/library/golang:1.26-bookworm",
		"rust-1":      "docker.io/library/rust:1-bookworm",
	}
}

// Policy says which images of registries jobs may use. A * in a pattern stands
// for anything: "ghcr.io/acme/*". Without Allow all are allowed; Deny comes
// before Allow.
type Policy struct {
	Allow, Deny []string
}

// Check tells whether an image may be used, by its canonical reference. Codes:
// forbidden.
func (p Policy) Check(canonical string) error {
	name := familiar(canonical)
	for _, pattern := range p.Deny {
		if nimbus.FitsImage(familiar(pattern), name) {
			return nimbus.Errorf(nimbus.CodeForbidden, "image %s is not allowed on this host", name).
				WithHint("its operator has denied %s", pattern)
		}
	}
	if len(p.Allow) == 0 {
		return nil
	}
	for _, pattern := range p.Allow {
		if nimbus.FitsImage(familiar(pattern), name) {
			return nil
		}
	}
	return nimbus.Errorf(nimbus.CodeForbidden, "image %s is not allowed on this host", name).
		WithHint("its operator allows %s", strings.Join(p.Allow, ", "))
}

// names tells whether a rule of what is allowed has a registry's whole name:
// "registry.corp:5000/*" has, and a star before the slash names nobody.
func (p Policy) names(registry string) bool {
	return slices.ContainsFunc(p.Allow, func(pattern string) bool {
		named, _, isPath := strings.Cut(pattern, "/")
		return isPath && familiar(named+"/") == familiar(registry+"/")
	})
}

// familiar calls Docker's registry by the name that people know.
func familiar(name string) string {
	if rest, ok := strings.CutPrefix(name, "index.docker.io/"); ok {
		return "docker.io/" + rest
	}
	return name
}
