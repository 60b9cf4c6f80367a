package wire

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

func input(n int) *nimbusv1.ShellFrame {
	return &nimbusv1.ShellFrame{Frame: &nimbusv1.ShellFrame_Input{Input: make([]byte, n)}}
}

func output(stream string, n int) *nimbusv1.ShellFrame {
	return &nimbusv1.ShellFrame{Frame: &nimbusv1.ShellFrame_Output{Output: &nimbusv1.ShellOutput{Stream: stream, Data: make([]byte, n)}}}
}

func resized(rows, columns int32) *nimbusv1.ShellFrame {
	return &nimbusv1.ShellFrame{Frame: &nimbusv1.ShellFrame_Size{Size: &nimbusv1.WindowSize{Rows: rows, Columns: columns}}}
}

func signalled(name string) *nimbusv1.ShellFrame {
	return &nimbusv1.ShellFrame{Frame: &nimbusv1.ShellFrame_Signal{Signal: name}}
}

// TestShellBatches: what goes one way does not go the other, and none is larger
// than it may be.
func TestShellBatches(t *testing.T) {
	t.Parallel()
	end := &nimbusv1.ShellFrame{Frame: &nimbusv1.ShellFrame_InputEnd{InputEnd: true}}
	many := func(n int, f *nimbusv1.ShellFrame) (all []*nimbusv1.ShellFrame) {
		for range n {
			all = append(all, f)
		}
		return all
	}
	one := func(f *nimbusv1.ShellFrame) []*nimbusv1.ShellFrame { return many(1, f) }
	for name, c := range map[string]struct {
		frames  []*nimbusv1.ShellFrame
		in, out nimbus.Code
	}{
		"input":               {one(input(maxFrameBytes)), "", nimbus.CodeInvalid},
		"large input":         {one(input(maxFrameBytes + 1)), nimbus.CodeInvalid, nimbus.CodeInvalid},
		"end of input":        {one(end), "", nimbus.CodeInvalid},
		"a size":              {one(resized(24, 80)), "", nimbus.CodeInvalid},
		"a huge size":         {one(resized(1<<20, 1<<20)), nimbus.CodeInvalid, nimbus.CodeInvalid},
		"no size":             {one(resized(0, 0)), nimbus.CodeInvalid, nimbus.CodeInvalid},
		"a signal":            {one(signalled("SIGINT")), "", nimbus.CodeInvalid},
		"a signal of its own": {one(signalled("SIGSTOP")), nimbus.CodeInvalid, nimbus.CodeInvalid},
		"output":              {one(output("stderr", maxFrameBytes)), nimbus.CodeInvalid, ""},
		"large output":        {one(output("stdout", maxFrameBytes+1)), nimbus.CodeInvalid, nimbus.CodeInvalid},
		"another stream":      {one(output("system", 1)), nimbus.CodeInvalid, nimbus.CodeInvalid},
		"nothing":             {nil, nimbus.CodeInvalid, nimbus.CodeInvalid},
		"a frame of no kind":  {one(&nimbusv1.ShellFrame{}), nimbus.CodeInvalid, nimbus.CodeInvalid},
		"too many":            {many(maxFrames+1, input(1)), nimbus.CodeInvalid, nimbus.CodeInvalid},
		"too much":            {many(9, input(maxFrameBytes)), nimbus.CodeTooLarge, nimbus.CodeInvalid},
	} {
		for way, want := range map[bool]nimbus.Code{true: c.in, false: c.out} {
			body, err := ShellBatch(c.frames, way)
			if nimbus.ErrorCode(err) != want {
				t.Errorf("%s, to the shell %v: %v, want %q", name, way, err, want)
			}
			if err != nil {
				continue
			}
			back, err := ToShellFrames([][]byte{body, body})
			if diff := cmp.Diff(append(append([]*nimbusv1.ShellFrame{}, c.frames...), c.frames...), back, protocmp.Transform()); err != nil || diff != "" {
				t.Errorf("%s comes back otherwise: %v\n%s", name, err, diff)
			}
		}
	}
}

func TestShellsComeBackAsTheyWere(t *testing.T) {
	t.Parallel()
	code := 3
	want := nimbus.Shell{ID: "shell_x", JobID: "job_x", AttemptID: "att_x", State: nimbus.ShellEnded, Actor: "user:a", RecordedLines: 7,
		Spec: nimbus.ShellSpec{Command: []string{"a", "b"}, Terminal: nimbus.Window{Rows: 1, Columns: 2}, Term: "vt100"},
		End:  nimbus.ShellEnd{Code: &code, Signal: "SIGINT", Reason: nimbus.ShellExited, Message: "m"}}
	if diff := cmp.Diff(want, ToShell(Shell(want))); diff != "" {
		t.Error(diff)
	}
}
