package lines

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
)

type fixedClock struct{}

func (fixedClock) Now() time.Time { return time.Unix(1_700_000_000, 0).UTC() }

func newSplitter() *Splitter { return NewSplitter(fixedClock{}, 0, State{}) }

// shown is "stream/step text" of each line; it checks the numbering.
func shown(t *testing.T, lines []nimbus.Line, first int64) []string {
	t.Helper()
	out := []string{}
	for i, l := range lines {
		if l.Seq != first+int64(i) {
			t.Errorf("line %d has number %d", i, l.Seq)
		}
		out = append(out, string(l.Stream)+"/"+string('0'+l.Step)+" "+l.Text)
	}
	return out
}

func TestSplit(t *testing.T) {
	t.Parallel()
	s := newSplitter()
	var got []nimbus.Line
	got = append(got, s.Write(nimbus.StreamStdout, []byte("one\ntw"))...)
	got = append(got, s.Write(nimbus.StreamStderr, []byte("err\r\n"))...)
	got = append(got, s.Write(nimbus.StreamStdout, []byte("o\n::nimbus-step::Build it\nthree\n\nprompt> "))...)
	got = append(got, s.System("cancelled"))
	got = append(got, s.Flush()...)
	want := []string{"stdout/0 one", "stderr/0 err", "stdout/0 two", "step/1 Build it", "stdout/1 three", "stdout/1 ", "system/1 cancelled", "stdout/1 prompt> "}
	if diff := cmp.Diff(want, shown(t, got, 1)); diff != "" {
		t.Error(diff)
	}
	if seq, step := s.Last(), s.State().Step; seq != 8 || step != 1 {
		t.Errorf("last %d in step %d", seq, step)
	}
}

func TestLongLinesAreSplitNotDropped(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 3*nimbus.MaxLineBytes+17)
	for name, input := range map[string]string{"with an end": long + "\n", "without": long} {
		s := newSplitter()
		got := append(s.Write(nimbus.StreamStdout, []byte(input)), s.Flush()...)
		var joined strings.Builder
		for _, l := range got {
			if len(l.Text) > nimbus.MaxLineBytes {
				t.Errorf("%s: a line of %d bytes", name, len(l.Text))
			}
			joined.WriteString(l.Text)
		}
		if joined.String() != long {
			t.Errorf("%s: %d bytes became %d", name, len(long), joined.Len())
		}
	}
}

func TestMask(t *testing.T) {
	t.Parallel()
	s := newSplitter()
	if s.Mask("abc") {
		t.Error("a secret of three bytes was taken")
	}
	if !s.Mask("hunter2hunter2") || !s.Mask("-----BEGIN\nkey-line-1\nkey-line-2\n") {
		t.Error("a secret was refused")
	}
	got := s.Write(nimbus.StreamStdout, []byte("pw hunter2hunter2hunter2!\n::add-mask::late-secret\nlate-secret key-line-2\n"))
	if diff := cmp.Diff([]string{"stdout/0 pw ***!", "stdout/0 *** ***"}, shown(t, got, 1)); diff != "" {
		t.Error(diff)
	}
}

// TestMaskBehindACarriageReturn: a progress bar ends no line, and what is hidden after
// it is on the same one.
func TestMaskBehindACarriageReturn(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		"10%\r100%\r::add-mask::late-secret\nlate-secret\n":        {"stdout/0 10%\r100%", "stdout/0 ***"},
		"late-secret\r ##[Add-Mask]late-secret\rdone\n":            {"stdout/0 ***"},
		"1\r::add-mask::late-secret\r::add-mask::second\nsecond\n": {"stdout/0 1", "stdout/0 ***"},
		"\r::add-mask::late-\rsecret\nlate-\rsecret late-\n":       {"stdout/0 *** ***"},
		"::add-mask::late-secret\rlate-secret\n":                   {},
		"::add-mask::late-secret\r\r\nlate-secret\n":               {"stdout/0 ***"},
		"::group::a\r::add-mask::late-secret\nlate-secret\n":       {"stdout/0 ::group::a", "stdout/0 ***"},
		"::stop-commands::x\n1\r::add-mask::late-secret\n::x::\n":  {"stdout/0 ::stop-commands::x", "stdout/0 1\r::add-mask::late-secret", "stdout/0 ::x::"},
		"1\r::nimbus-step::Not one\n2\r\n":                         {"stdout/0 1\r::nimbus-step::Not one", "stdout/0 2"},
	} {
		if diff := cmp.Diff(want, shown(t, newSplitter().Write(nimbus.StreamStdout, []byte(text)), 1)); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
	}
}

// FuzzSplitter: whatever the pieces, the same text comes out, and never a secret.
func FuzzSplitter(f *testing.F) {
	f.Add("hello s3cret-value world\nnext", uint8(3))
	f.Add("s3cret-s3cret-value\r\n\r\n", uint8(1))
	f.Add(strings.Repeat("a", 70_000)+"s3cret-value"+strings.Repeat("b", 70_000), uint8(250))
	f.Fuzz(func(t *testing.T, text string, piece uint8) {
		const secret = "s3cret-value"
		if strings.Contains(text, "::") {
			return // directives have effects of their own
		}
		s := newSplitter()
		s.Mask(secret)
		var got []string
		add := func(lines []nimbus.Line) {
			for _, l := range lines {
				if strings.Contains(l.Text, secret) {
					t.Fatalf("the secret is seen in %q", l.Text)
				}
				got = append(got, l.Text)
			}
		}
		for rest := []byte(text); len(rest) > 0; {
			n := min(len(rest), int(piece)+1)
			add(s.Write(nimbus.StreamStdout, rest[:n]))
			rest = rest[n:]
		}
		add(s.Flush())
		clean := func(s string) string { return strings.NewReplacer("\r", "", "\n", "").Replace(s) }
		if want := clean(strings.ReplaceAll(text, secret, hidden)); clean(strings.Join(got, "")) != want {
			t.Fatalf("%q became %q", text, got)
		}
	})
}
