package wire

import (
	"google.golang.org/protobuf/proto"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// Window makes a message; none is absent.
func Window(w nimbus.Window) *nimbusv1.WindowSize {
	if w == (nimbus.Window{}) {
		return nil
	}
	return &nimbusv1.WindowSize{Rows: int32(w.Rows), Columns: int32(w.Columns)}
}

// ToWindow reads one. One that is there is never none, however small.
func ToWindow(w *nimbusv1.WindowSize) nimbus.Window {
	if w == nil {
		return nimbus.Window{}
	}
	if w.GetRows() == 0 && w.GetColumns() == 0 {
		return nimbus.Window{Rows: -1, Columns: -1}
	}
	return nimbus.Window{Rows: int(w.GetRows()), Columns: int(w.GetColumns())}
}

// ShellSpec makes a message.
func ShellSpec(s nimbus.ShellSpec) *nimbusv1.ShellSpec {
	return &nimbusv1.ShellSpec{Command: s.Command, Terminal: Window(s.Terminal), Term: s.Term}
}

// ToShellSpec reads one.
func ToShellSpec(s *nimbusv1.ShellSpec) nimbus.ShellSpec {
	return nimbus.ShellSpec{Command: s.GetCommand(), Terminal: ToWindow(s.GetTerminal()), Term: s.GetTerm()}
}

// ShellEnd makes a message; none is absent.
func ShellEnd(e *nimbus.ShellEnd) *nimbusv1.ShellEnd {
	if e == nil {
		return nil
	}
	return &nimbusv1.ShellEnd{Code: int32Of(e.Code), Signal: e.Signal, Reason: string(e.Reason), Message: e.Message}
}

// ToShellEnd reads one; an absent one is none.
func ToShellEnd(e *nimbusv1.ShellEnd) *nimbus.ShellEnd {
	if e == nil {
		return nil
	}
	return &nimbus.ShellEnd{Code: intOf(e.Code), Signal: e.GetSignal(), Reason: nimbus.ShellReason(e.GetReason()), Message: e.GetMessage()}
}

// Shell makes a message.
func Shell(s nimbus.Shell) *nimbusv1.Shell {
	out := &nimbusv1.Shell{
		Id: s.ID, JobId: s.JobID, AttemptId: s.AttemptID, State: string(s.State), Actor: s.Actor, Spec: ShellSpec(s.Spec),
		OpenedAt: Time(s.OpenedAt), EndsAt: Time(s.EndsAt), EndedAt: Time(s.EndedAt), RecordedLines: s.RecordedLines,
	}
	if s.State == nimbus.ShellEnded {
		out.End = ShellEnd(&s.End)
	}
	return out
}

// ToShell reads one.
func ToShell(s *nimbusv1.Shell) nimbus.Shell {
	out := nimbus.Shell{
		ID: s.GetId(), JobID: s.GetJobId(), AttemptID: s.GetAttemptId(), State: nimbus.ShellState(s.GetState()), Actor: s.GetActor(),
		Spec: ToShellSpec(s.GetSpec()), OpenedAt: ToTime(s.GetOpenedAt()), EndsAt: ToTime(s.GetEndsAt()), EndedAt: ToTime(s.GetEndedAt()),
		RecordedLines: s.GetRecordedLines(),
	}
	if e := ToShellEnd(s.GetEnd()); e != nil {
		out.End = *e
	}
	return out
}

// Bounds of a batch of frames.
const (
	maxFrames     = 1024
	maxFrameBytes = 32 << 10
	maxBatchBytes = 256 << 10
)

// ShellBatch makes what lies in the store of a batch of frames. Codes: invalid,
// too_large.
func ShellBatch(frames []*nimbusv1.ShellFrame, toShell bool) ([]byte, error) {
	if len(frames) == 0 || len(frames) > maxFrames {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "a batch has 1 to %d frames, not %d", maxFrames, len(frames))
	}
	for _, f := range frames {
		if err := checkFrame(f, toShell); err != nil {
			return nil, err
		}
	}
	body, err := proto.Marshal(&nimbusv1.SendShellRequest{Frames: frames})
	if err != nil {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "encode a batch: %w", err)
	}
	if len(body) > maxBatchBytes {
		return nil, nimbus.Errorf(nimbus.CodeTooLarge, "a batch has at most %d bytes", maxBatchBytes)
	}
	return body, nil
}

// ToShellFrames reads batches.
func ToShellFrames(bodies [][]byte) ([]*nimbusv1.ShellFrame, error) {
	var frames []*nimbusv1.ShellFrame
	for _, body := range bodies {
		var batch nimbusv1.SendShellRequest
		if err := proto.Unmarshal(body, &batch); err != nil {
			return nil, nimbus.Errorf(nimbus.CodeInternal, "decode a batch: %w", err)
		}
		frames = append(frames, batch.GetFrames()...)
	}
	return frames, nil
}

func checkFrame(f *nimbusv1.ShellFrame, toShell bool) error {
	switch x := f.GetFrame().(type) {
	case *nimbusv1.ShellFrame_Output:
		if stream := x.Output.GetStream(); !toShell && len(x.Output.GetData()) <= maxFrameBytes && (stream == "stdout" || stream == "stderr") {
			return nil
		}
	case *nimbusv1.ShellFrame_Input:
		if toShell && len(x.Input) <= maxFrameBytes {
			return nil
		}
	case *nimbusv1.ShellFrame_InputEnd:
		if toShell {
			return nil
		}
	case *nimbusv1.ShellFrame_Size:
		if err := ToWindow(x.Size).Check(); err != nil || toShell {
			return err
		}
	case *nimbusv1.ShellFrame_Signal:
		switch x.Signal {
		case "SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT":
			if toShell {
				return nil
			}
		}
	}
	return nimbus.Errorf(nimbus.CodeInvalid, "a frame is of no kind that goes this way, or over its bound")
}
