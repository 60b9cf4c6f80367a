package nimbus

import (
	"strings"
	"testing"
	"time"
)

func TestNewID(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	seen := map[string]bool{}
	for range 10_000 {
		id := NewID(PrefixJob, at)
		if err := CheckID(PrefixJob, id); err != nil {
			t.Fatal(err)
		}
		if seen[id] {
			t.Fatalf("%s came twice", id)
		}
		seen[id] = true
	}
	if a, b := NewID(PrefixJob, at), NewID(PrefixJob, at.Add(time.Millisecond)); a >= b {
		t.Errorf("%s is not before %s, made a millisecond later", a, b)
	}
}

func TestCheckIDRefusesWhatIsNoFileName(t *testing.T) {
	t.Parallel()
	good := NewID(PrefixAttempt, time.Now())
	for _, id := range []string{
		"", "att_", good[:len(good)-1], good + "0", "job_" + good[4:], strings.ToUpper(good),
		"att_../../../../etc/passwd00000"[:30], "att_" + strings.Repeat("/", 26), "att_" + strings.Repeat("u", 26),
	} {
		if err := CheckID(PrefixAttempt, id); ErrorCode(err) != CodeInvalid {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func TestIDTime(t *testing.T) {
	t.Parallel()
	for _, at := range []time.Time{time.UnixMilli(0), time.UnixMilli(1<<48 - 1), time.Date(2026, 11, 25, 12, 0, 0, 7_000_000, time.UTC)} {
		if got, ok := IDTime(PrefixJob, NewID(PrefixJob, at)); !ok || !got.Equal(at) {
			t.Errorf("an id of %v is said to be of %v, %t", at, got, ok)
		}
	}
	if _, ok := IDTime(PrefixJob, NewID(PrefixHost, time.Now())); ok {
		t.Error("a host's id was taken for a job's")
	}
}

func TestIDBytes(t *testing.T) {
	t.Parallel()
	for range 1000 {
		id := NewID(PrefixOrg, time.Now())
		b, err := IDBytes(PrefixOrg, id)
		if err != nil || IDOf(PrefixOrg, b) != id {
			t.Fatalf("%s becomes %s, %v", id, IDOf(PrefixOrg, b), err)
		}
	}
	for id, want := range map[string]bool{DefaultOrgID: true, "org_7" + strings.Repeat("z", 25): true, "org_8" + strings.Repeat("0", 25): false, "org_z" + strings.Repeat("z", 25): false, "org_" + strings.Repeat("0", 25): false} {
		// 26 digits are two bits more than there are bytes: what differs in those alone
		// would be one org to who keeps the bytes.
		if b, err := IDBytes(PrefixOrg, id); (err == nil) != want || want && IDOf(PrefixOrg, b) != id {
			t.Errorf("%s: %v", id, err)
		}
	}
}
