//go:build sccache

package cache_test

import "testing"

// TestSccache runs the rows of sccache, at the server; through a host it compiles on one
// machine, and on another without compiling. This file is of `make test-sccache` and not
// of `make test`.
func TestSccache(t *testing.T) {
	runRows(t, matrix(nil), "test-sccache")
	version2, version1, byURL := sccaches()
	for name, cc := range map[string]compiler{"version 2": version2, "version 1": version1, "by URL": byURL} {
		t.Run(name+" through a host", func(t *testing.T) {
			t.Parallel()
			w := newHost(t, 100*MiB).world
			w.compiles(cc, small, compiled{misses: 1})
			w.compiles(cc, small, compiled{hits: 1})
		})
	}
}
