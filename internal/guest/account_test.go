package guest

import "testing"

// TestHomeOfRoot: the first process of a machine has the kernel's idea of a
// home, which is nobody's.
func TestHomeOfRoot(t *testing.T) {
	for set, want := range map[string]string{"": "/root", "/": "/root", "/workspace": "/workspace"} {
		t.Setenv("HOME", set)
		if a, err := lookAccount(""); err != nil || a.home != want {
			t.Errorf("HOME=%q: %+v, %v", set, a, err)
		}
	}
}
