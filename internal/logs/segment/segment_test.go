package segment

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
)

func key() nimbus.LogKey {
	return nimbus.LogKey{OrgID: nimbus.DefaultOrgID, AttemptID: nimbus.NewID(nimbus.PrefixAttempt, time.Now())}
}

func made(from, to int64) []nimbus.Line {
	var out []nimbus.Line
	for seq := from; seq <= to; seq++ {
		out = append(out, nimbus.Line{
			Seq: seq, At: time.UnixMicro(1_700_000_000_000_000 + seq).UTC(), Stream: nimbus.StreamStep, Step: 7,
			Text: fmt.Sprintf("line %d \x1b[31m\xff not text", seq),
		})
	}
	return out
}

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func appendLines(t *testing.T, s *Store, k nimbus.LogKey, lines []nimbus.Line, want int64) {
	t.Helper()
	acked, err := s.Append(t.Context(), k, lines)
	if err != nil || acked != want {
		t.Fatalf("acknowledged %d, want %d: %v", acked, want, err)
	}
}

func TestOverlapsAreTrimmedAndGapsRefused(t *testing.T) {
	t.Parallel()
	s, k := open(t, t.TempDir()), key()
	appendLines(t, s, k, made(1, 10), 10)
	appendLines(t, s, k, made(5, 20), 20)
	appendLines(t, s, k, made(1, 20), 20)
	appendLines(t, s, k, made(30, 40), 20)
	got, err := s.Read(t.Context(), k, 1, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(made(1, 20), got); diff != "" {
		t.Error(diff)
	}
	if got, err = s.Read(t.Context(), k, 9, 4); err != nil || !cmp.Equal(got, made(9, 12)) {
		t.Errorf("lines 9 to 12: %v, %v", got, err)
	}
}

// TestTornFrame cuts the file at every byte of its last frame.
func TestTornFrame(t *testing.T) {
	t.Parallel()
	dir, k := t.TempDir(), key()
	s := open(t, dir)
	appendLines(t, s, k, made(1, 5), 5)
	path, err := s.path(k)
	if err != nil {
		t.Fatal(err)
	}
	kept := s.open[k].size
	appendLines(t, s, k, made(6, 9), 9)
	s.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := kept; cut < int64(len(whole)); cut++ {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, dir)
		if acked, err := s.Acked(t.Context(), k); err != nil || acked != 5 {
			t.Fatalf("cut at %d: %d, %v", cut, acked, err)
		}
		appendLines(t, s, k, made(6, 7), 7)
		if got, err := s.Read(t.Context(), k, 1, 100); err != nil || !cmp.Equal(got, made(1, 7)) {
			t.Fatalf("cut at %d: %v, %v", cut, got, err)
		}
		s.Close()
	}
	// A flipped bit is told, not shown.
	whole[kept-1] ^= 1
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, dir).Read(t.Context(), k, 1, 100); err == nil {
		t.Error("a damaged frame was read")
	}
}

func TestOrgsAndNamesAreKeptApart(t *testing.T) {
	t.Parallel()
	s, k := open(t, t.TempDir()), key()
	appendLines(t, s, k, made(1, 3), 3)
	other := nimbus.LogKey{OrgID: nimbus.NewID(nimbus.PrefixOrg, time.Now()), AttemptID: k.AttemptID}
	if got, err := s.Read(t.Context(), other, 1, 10); err != nil || len(got) != 0 {
		t.Errorf("another org read %d lines, %v", len(got), err)
	}
	for _, bad := range []nimbus.LogKey{
		{OrgID: "..", AttemptID: k.AttemptID}, {OrgID: nimbus.DefaultOrgID, AttemptID: "../" + k.AttemptID}, {OrgID: "", AttemptID: k.AttemptID},
	} {
		if _, err := s.Append(t.Context(), bad, made(1, 1)); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

func TestManyLogsFewFiles(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	keys := make([]nimbus.LogKey, maxOpen+20)
	for i := range keys {
		keys[i] = key()
		appendLines(t, s, keys[i], made(1, 2), 2)
	}
	if len(s.open) > maxOpen {
		t.Errorf("%d files are open", len(s.open))
	}
	appendLines(t, s, keys[0], made(3, 3), 3)
	if err := s.Delete(t.Context(), keys[0]); err != nil {
		t.Fatal(err)
	}
	if acked, err := s.Acked(t.Context(), keys[0]); err != nil || acked != 0 {
		t.Errorf("after delete: %d, %v", acked, err)
	}
}

func TestLimit(t *testing.T) {
	t.Parallel()
	s, err := Open(t.TempDir(), 10)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	k := key()
	appendLines(t, s, k, made(1, 3), 3)
	if acked, err := s.Append(t.Context(), k, made(4, 5)); nimbus.ErrorCode(err) != nimbus.CodeTooLarge || acked != 3 {
		t.Errorf("%d, %v", acked, err)
	}
}
