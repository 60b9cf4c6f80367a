package logs_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
)

func TestRecords(t *testing.T) {
	t.Parallel()
	at := time.Unix(1_700_000_000, 42_000).UTC()
	want := []nimbus.Line{
		{Seq: 1, At: at, Stream: nimbus.StreamStdout},
		{Seq: 2, At: at, Stream: nimbus.StreamStderr, Step: 3, Text: "plain"},
		{Seq: 1 << 40, At: at, Stream: nimbus.StreamStep, Step: 1 << 20, Group: 1 << 30, Text: "grouped\xff"},
		{Seq: 4, At: at, Stream: nimbus.StreamSystem, Group: 1, Text: "x"},
	}
	var b []byte
	for _, l := range want {
		b = logs.AppendRecord(b, l)
	}
	whole := b
	var got []nimbus.Line
	for len(b) > 0 {
		l, rest, err := logs.DecodeRecord(b)
		if err != nil {
			t.Fatal(err)
		}
		got, b = append(got, l), rest
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// Whatever is cut off is no line, and no panic.
	for cut := range whole {
		for rest := whole[:cut]; len(rest) > 0; {
			var err error
			if _, rest, err = logs.DecodeRecord(rest); err != nil {
				break
			}
		}
	}
	// The form in which logs were kept before groups were counted.
	old := []byte{7, 0, 1, 2, 2, 'h', 'i'}
	l, rest, err := logs.DecodeRecord(old)
	if err != nil || len(rest) != 0 || l.Group != 0 || l.Step != 2 || l.Text != "hi" || l.Stream != nimbus.StreamStderr {
		t.Errorf("a record of before: %+v, %d bytes left, %v", l, len(rest), err)
	}
}
