//go:build buildkit

package cache_test

import "testing"

// TestBuildKit runs the rows of BuildKit. This file is of `make test-buildkit` and not
// of `make test`.
func TestBuildKit(t *testing.T) { runRows(t, matrix(nil), "test-buildkit") }
