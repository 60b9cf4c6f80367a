package agent

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// events reads what was recorded, and checks that it is an asciicast.
func events(t *testing.T, recorded []nimbus.Line) (shown string, others []string) {
	t.Helper()
	last := 0.0
	for i, line := range recorded {
		if line.Seq != int64(i)+1 || len(line.Text) > nimbus.MaxLineBytes || !utf8.ValidString(line.Text) {
			t.Fatalf("line %d is number %d, of %d bytes", i, line.Seq, len(line.Text))
		}
		if i == 0 {
			var head map[string]any
			if err := json.Unmarshal([]byte(line.Text), &head); err != nil || head["version"] != 2.0 || head["width"] != 90.0 || head["height"] != 30.0 || head["timestamp"] == nil {
				t.Fatalf("the head is %s: %v", line.Text, err)
			}
			continue
		}
		var event []any
		if err := json.Unmarshal([]byte(line.Text), &event); err != nil || len(event) != 3 {
			t.Fatalf("event %d is %s: %v", i, line.Text, err)
		}
		at, text := event[0].(float64), event[2].(string)
		if at < last {
			t.Fatalf("event %d is before the one before", i)
		}
		last = at
		if event[1] == "o" {
			shown += text
		} else {
			others = append(others, event[1].(string)+" "+text)
		}
	}
	return shown, others
}

func newTestRecording(secrets ...string) (*recording, time.Time) {
	began := time.Unix(1_700_000_000, 0)
	return newRecording(&nimbusv1.ShellSpec{Terminal: &nimbusv1.WindowSize{Rows: 30, Columns: 90}, Term: "xterm", Command: []string{"echo", "top-secret"}}, secrets, began), began
}

func TestRecordingShowsWhatTheTerminalDid(t *testing.T) {
	t.Parallel()
	r, at := newTestRecording("top-secret")
	all := []byte("smile ☺ and top-secret\r\n\x1b[31m\xff\x00 end top-sec")
	for i, b := range all {
		r.output([]byte{b}, at.Add(time.Duration(i)*time.Millisecond))
		if i == 3 {
			r.resize(&nimbusv1.WindowSize{Rows: 10, Columns: 20}, at.Add(time.Duration(i)*time.Millisecond))
		}
	}
	r.end(at.Add(time.Second))
	lines := r.take()
	shown, others := events(t, lines)
	if shown != "smile ☺ and ***\r\n\x1b[31m\ufffd\x00 end top-sec" || len(others) != 1 || others[0] != "r 20x10" {
		t.Errorf("it shows %q, %q", shown, others)
	}
	if strings.Contains(lines[0].Text, "top-secret") {
		t.Errorf("the head tells the secret: %s", lines[0].Text)
	}
}

// TestPiecesAreOneBatch: many small pieces are few frames.
func TestPiecesAreOneBatch(t *testing.T) {
	t.Parallel()
	var frames []*nimbusv1.ShellFrame
	for range 3 * maxOutput {
		frames = addPiece(frames, &nimbusv1.ShellOutput{Stream: "stdout", Data: []byte("x")})
	}
	frames = addPiece(frames, &nimbusv1.ShellOutput{Stream: "stderr", Data: []byte("y")})
	if len(frames) != 4 || len(frames[0].GetOutput().GetData()) != maxOutput || frames[3].GetOutput().GetStream() != "stderr" {
		t.Errorf("they are %d frames", len(frames))
	}
}

// TestMasksThatComeLater hide from then on.
func TestMasksThatComeLater(t *testing.T) {
	t.Parallel()
	r, at := newTestRecording("first-secret")
	r.output([]byte("later-secret first-secret\n"), at)
	r.mask([]string{"later-secret", "first-secret"}) // they come sorted
	r.output([]byte("later-secret first-secret\n"), at)
	if shown, _ := events(t, r.take()); shown != "later-secret ***\n*** ***\n" {
		t.Errorf("it shows %q", shown)
	}
}

// TestRecordingOfNoTerminal has the ends of lines that a terminal needs.
func TestRecordingOfNoTerminal(t *testing.T) {
	t.Parallel()
	r := newRecording(&nimbusv1.ShellSpec{Command: []string{"x"}}, nil, time.Now())
	r.output([]byte("one\ntwo\n"), time.Now())
	if lines := r.take(); len(lines) != 2 || !strings.Contains(lines[1].Text, `"one\r\ntwo\r\n"`) {
		t.Errorf("recorded %+v", lines)
	}
}

func TestRecordingIsBounded(t *testing.T) {
	t.Parallel()
	r, at := newTestRecording()
	for range 2 * maxRecording / (32 << 10) {
		r.output([]byte(strings.Repeat("\x00", 32<<10)), at)
	}
	for range 100_000 {
		r.output([]byte("x"), at)
		r.resize(&nimbusv1.WindowSize{Rows: 1, Columns: 1}, at)
	}
	shown, _ := events(t, r.take())
	if len(shown) > maxRecording+len(recordingEnds) || !strings.HasSuffix(shown, recordingEnds) {
		t.Errorf("%d bytes are shown", len(shown))
	}
	r, at = newTestRecording()
	for range 1_000_000 {
		r.output([]byte("x"), at)
	}
	if n := len(r.take()); n > maxRecording/64+2 {
		t.Errorf("%d lines are kept of single bytes", n)
	}
}
