package testenv

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Main runs the tests of a package, and fails where a goroutine of theirs goes on for
// good. goleak by itself gives them less than half a second to end, which is less than
// net/http lingers at some connections that it closes, and than a busy machine takes.
func Main(m *testing.M) {
	code := m.Run()
	for deadline := time.Now().Add(startTimeout); code == 0; {
		err := goleak.Find()
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			fmt.Fprintln(os.Stderr, "what tests have started goes on:", err)
			code = 1
		}
	}
	os.Exit(code)
}
