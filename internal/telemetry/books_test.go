package telemetry

import (
	"fmt"
	"testing"

	"github.com/nimbus-ci/nimbus"
)

// TestCountersOfClassesAreBounded: whoever asks for machines of ever new sizes
// makes no ever new series.
func TestCountersOfClassesAreBounded(t *testing.T) {
	t.Parallel()
	var names classNames
	of := func(cpus int) nimbus.Class {
		return nimbus.Class{Executor: nimbus.ExecutorMicroVM, CPUs: cpus, MemoryMiB: 1024}
	}
	for cpus := 1; cpus <= classesTold; cpus++ {
		if got, want := names.label(of(cpus)), fmt.Sprintf("microvm-%dcpu-1024mib", cpus); got != want {
			t.Errorf("class %d is %q, want %q", cpus, got, want)
		}
	}
	if got := names.label(of(classesTold + 1)); got != otherClass {
		t.Errorf("one too many is %q", got)
	}
	if got := names.label(of(1)); got != "microvm-1cpu-1024mib" {
		t.Errorf("the first is %q afterwards", got)
	}
}
