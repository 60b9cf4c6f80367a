package wire

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// filler gives every field a value of its own, so that one that is left out or
// swapped on the way is seen, also one that is added later.
type filler struct{ n int64 }

func (f *filler) fill(v reflect.Value) {
	f.n++
	switch v.Interface().(type) {
	case nimbus.State:
		v.SetString(string(nimbus.StateRunning))
		return
	case nimbus.Result:
		v.SetString(string(nimbus.ResultTimedOut))
		return
	case time.Time:
		v.Set(reflect.ValueOf(time.UnixMicro(1_700_000_000_000_000 + f.n).UTC()))
		return
	case time.Duration:
		v.SetInt(f.n * int64(time.Millisecond)) // series have no finer ones
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprintf("text %d", f.n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(f.n)
	case reflect.Float64:
		v.SetFloat(float64(f.n) / 8)
	case reflect.Uint8:
		v.SetUint(uint64(f.n % 256))
	case reflect.Array:
		for i := range v.Len() {
			f.fill(v.Index(i))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		f.fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			f.fill(v.Index(i))
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		f.fill(key)
		f.fill(value)
		v.SetMapIndex(key, value)
	case reflect.Struct:
		for i := range v.NumField() {
			f.fill(v.Field(i))
		}
	default:
		panic(fmt.Sprintf("a field of type %s: teach the test", v.Type()))
	}
}

// roundTrip sends a value through its message, bytes included, once with every
// field set and once with none. local takes out what stays on the server.
func roundTrip[T any, M proto.Message](t *testing.T, to func(T) M, from func(M) T, local func(*T)) {
	t.Helper()
	var full, empty T
	(&filler{}).fill(reflect.ValueOf(&full).Elem())
	for _, v := range []T{full, empty} {
		if local != nil {
			local(&v)
		}
		raw, err := proto.Marshal(to(v))
		if err != nil {
			t.Fatal(err)
		}
		m, ok := to(v).ProtoReflect().New().Interface().(M)
		if !ok {
			t.Fatalf("%T makes another message", m)
		}
		if err := proto.Unmarshal(raw, m); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(v, from(m)); diff != "" {
			t.Errorf("%T is changed on its way (-sent +got):\n%s", v, diff)
		}
	}
	var none M // absent in its message
	from(none)
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	roundTrip(t, Lease, ToLease, nil)
	roundTrip(t, Class, ToClass, nil)
	roundTrip(t, Spec, ToSpec, nil)
	roundTrip(t, Offer, ToOffer, nil)
	roundTrip(t, Assignment, ToAssignment, nil)
	roundTrip(t, Line, ToLine, nil)
	roundTrip(t, Reason, toReason, nil)
	roundTrip(t, Outcome, ToOutcome, nil)
	roundTrip(t, Inventory, ToInventory, nil)
	roundTrip(t, Capacity, ToCapacity, nil)
	roundTrip(t, poll, ToFree, nil)
	roundTrip(t, Host, ToHost, nil)
	roundTrip(t, GitHubApp, ToGitHubApp, nil)
	roundTrip(t, GitHubInstallation, ToGitHubInstallation, nil)
	roundTrip(t, GitHubCheck, ToGitHubCheck, nil)
	roundTrip(t, Event, ToEvent, func(e *nimbus.JobEvent) { e.JobID = "" }) // known to who asks
	roundTrip(t, timeline, toTimeline, nil)
	roundTrip(t, Org, ToOrg, nil)
	roundTrip(t, Repo, ToRepo, nil)
	roundTrip(t, User, ToUser, nil)
	roundTrip(t, Member, ToMember, nil)
	roundTrip(t, ServiceAccount, ToServiceAccount, nil)
	roundTrip(t, Token, ToToken, nil)
	roundTrip(t, AuditEntry, ToAuditEntry, nil)
	roundTrip(t, AuditCheckpoint, ToAuditCheckpoint, nil)
	roundTrip(t, UsageTotals, ToUsageTotals, nil)
	roundTrip(t, UsageSeries, ToUsageSeries, nil)
	roundTrip(t, Load, ToLoad, nil)
	roundTrip(t, Report, ToReport, nil)
	roundTrip(t, HostJob, ToHostJob, nil)
}

// TestTimesThatAreNone: a number of milliseconds that is no time is refused, not
// another one.
func TestTimesThatAreNone(t *testing.T) {
	t.Parallel()
	for _, ms := range []int64{1 << 62, -1 << 62, 9_300_000_000_000} {
		s := ToUsageSeries(&nimbusv1.UsageSeries{Points: []*nimbusv1.UsagePoint{{AtMs: ms}}})
		s.Start = time.Unix(1, 0)
		if err := s.Check(); err == nil {
			t.Errorf("%d ms became %s", ms, s.Points[0].At)
		}
	}
}

// poll is a question that waits for nothing.
func poll(free nimbus.Capacity) *nimbusv1.PollRequest { return PollRequest(free, 0) }

func TestJobRoundTrip(t *testing.T) {
	t.Parallel()
	roundTrip(t, Job, ToJob, func(j *nimbus.Job) { // a native one
		if j.Source != "" {
			j.Source = nimbus.SourceNative
		}
		j.MaxAttempts, j.Repo, j.GitHub = 0, "", nimbus.GitHubJob{}
	})
	roundTrip(t, Job, ToJob, func(j *nimbus.Job) {
		if j.Source == "" {
			return
		}
		j.Source, j.MaxAttempts, j.Spec, j.GitHub.InstallationID = nimbus.SourceGitHub, 0, nimbus.Spec{}, 0
		j.Repo = j.GitHub.Owner + "/" + j.GitHub.Repo
	})
}

func TestEnumsRoundTrip(t *testing.T) {
	t.Parallel()
	for _, s := range nimbus.States() {
		if State(s) == 0 || ToState(State(s)) != s {
			t.Errorf("state %s becomes %s", s, ToState(State(s)))
		}
	}
	for _, r := range []nimbus.Result{nimbus.ResultSuccess, nimbus.ResultFailure, nimbus.ResultCancelled, nimbus.ResultTimedOut, nimbus.ResultLost} {
		if Result(r) == 0 || ToResult(Result(r)) != r {
			t.Errorf("result %s becomes %s", r, ToResult(Result(r)))
		}
	}
	if ToState(99) != "" || ToResult(99) != "" {
		t.Error("an unknown value has a name")
	}
}

func TestLeasesRoundTrip(t *testing.T) {
	t.Parallel()
	var leases []nimbus.Lease
	var statuses []nimbus.LeaseStatus
	f := &filler{}
	f.fill(reflect.ValueOf(&leases).Elem())
	f.fill(reflect.ValueOf(&statuses).Elem())
	if diff := cmp.Diff(leases, ToLeases(Leases(leases))); diff != "" {
		t.Errorf("leases (-sent +got):\n%s", diff)
	}
	if diff := cmp.Diff(statuses, ToLeaseStatuses(LeaseStatuses(statuses))); diff != "" {
		t.Errorf("statuses (-sent +got):\n%s", diff)
	}
}

// TestLinesKeepTheirBytes: jobs write what they like.
func TestLinesKeepTheirBytes(t *testing.T) {
	t.Parallel()
	raw, err := proto.Marshal(Line(nimbus.Line{Seq: 1, Text: "\xff\x00\xfe"}))
	if err != nil {
		t.Fatal(err)
	}
	m := Line(nimbus.Line{})
	if err := proto.Unmarshal(raw, m); err != nil || ToLine(m).Text != "\xff\x00\xfe" {
		t.Errorf("%q, %v", ToLine(m).Text, err)
	}
}

// TestAnOutcomeIsAlwaysText: what a sandbox said must not keep a job from its
// end, for the server refuses messages with a NUL.
func TestAnOutcomeIsAlwaysText(t *testing.T) {
	t.Parallel()
	got := Outcome(nimbus.Outcome{Signal: "\x00", Reason: nimbus.Reason{Code: nimbus.ReasonKilled, Message: "a\x00b\xff"}})
	if got.GetSignal() != "�" || got.GetReason().GetMessage() != "a�b�" {
		t.Errorf("%v", got)
	}
}
