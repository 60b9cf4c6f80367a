package firecracker_test

import (
	"os"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/firecracker/firecrackertest"
)

func TestMain(m *testing.M) { firecrackertest.Main(m) }

// TestSuite tries everything with the double. It prints what that covers: see
// README.md.
func TestSuite(t *testing.T) {
	succeed := 38
	if os.Geteuid() != 0 {
		succeed = 35 // without a tap
	}
	report := firecrackertest.Run(t, firecrackertest.Double(t))
	t.Log(report.JSON())
	if report.Called != report.Described || report.Succeeded < succeed || report.ErrorsSeen < report.ErrorsDescribed-1 {
		t.Errorf("it covers less than it did: %d of %d calls, %d with success; %d of %d error answers",
			report.Called, report.Described, report.Succeeded, report.ErrorsSeen, report.ErrorsDescribed)
	}
}

// TestSuiteInstalled tries the same with the real one.
func TestSuiteInstalled(t *testing.T) {
	report := firecrackertest.Run(t, firecrackertest.Installed(t))
	t.Log(report.JSON())
}
