package store_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store"
)

// TestIdentity runs the same cases on both engines, through the service: what
// matters is what a token can do.
func TestIdentity(t *testing.T) {
	t.Parallel()
	for name, dsn := range engines() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, dsn(t))
			t.Run("kinds", func(t *testing.T) { testKinds(t, identity.New(s, nimbus.SystemClock{})) })
			t.Run("single use", func(t *testing.T) { testSingleUse(t, identity.New(s, nimbus.SystemClock{})) })
			t.Run("job tokens", func(t *testing.T) { testJobTokens(t, s) })
			t.Run("expiry", func(t *testing.T) { testExpiry(t, s) })
			t.Run("secrets", func(t *testing.T) { testSecrets(t, s) })
		})
	}
}

func refused(t *testing.T, err error) {
	t.Helper()
	if nimbus.ErrorCode(err) != nimbus.CodeUnauthenticated {
		t.Errorf("want unauthenticated, got %v", err)
	}
}

func testKinds(t *testing.T, s *identity.Service) {
	ctx := t.Context()
	admin, created, err := s.IssueAdmin(ctx)
	if err != nil || !created {
		t.Fatal(created, err)
	}
	if _, again, err := s.IssueAdmin(ctx); err != nil || again {
		t.Errorf("a second administrator: %v, %v", again, err)
	}
	host, err := s.IssueHost(ctx, "host_1")
	if err != nil {
		t.Fatal(err)
	}
	for token, want := range map[string]nimbus.PrincipalKind{admin: nimbus.PrincipalAdmin, host: nimbus.PrincipalHost} {
		p, err := s.Authenticate(ctx, token)
		if err != nil || p.Kind != want {
			t.Errorf("%v, %v; want %s", p, err, want)
		}
		_, err = s.AuthenticateSession(ctx, token)
		refused(t, err)
	}
	flipped := []byte(admin)
	flipped[20] ^= 1
	for _, bad := range []string{"", "x", admin[:len(admin)-1], admin + "0", string(flipped), "nbs_host_" + admin[len("nbs_admin_"):]} {
		_, err := s.Authenticate(ctx, bad)
		refused(t, err)
	}
}

func testSingleUse(t *testing.T, s *identity.Service) {
	ctx := t.Context()
	join, _, err := s.IssueJoin(ctx, identity.Root(), 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Authenticate(ctx, join)
	refused(t, err) // it stands for nobody
	var won atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if s.RedeemJoin(ctx, join) == nil {
				won.Add(1)
			}
		})
	}
	all.Wait()
	if won.Load() != 1 {
		t.Errorf("one join token joined %d hosts", won.Load())
	}
	code, err := s.CreateLogin(ctx, identity.Root(), "")
	if err != nil {
		t.Fatal(err)
	}
	refused(t, s.RedeemJoin(ctx, code)) // of another kind
	session, _, err := s.RedeemLogin(ctx, code)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = s.RedeemLogin(ctx, code)
	refused(t, err)
	if p, err := s.AuthenticateSession(ctx, session); err != nil || p.Kind != nimbus.PrincipalAdmin {
		t.Errorf("%v, %v", p, err)
	}
	_, err = s.Authenticate(ctx, session)
	refused(t, err) // a cookie is no bearer token
	if err := s.EndSession(ctx, identity.Root(), session); err != nil {
		t.Fatal(err)
	}
	_, err = s.AuthenticateSession(ctx, session)
	refused(t, err)
}

// testJobTokens: a token works from when its attempt is proved to run its job,
// and until the attempt ends or its lease runs out.
func testJobTokens(t *testing.T, st *store.Store) {
	ctx, s := t.Context(), identity.New(st, nimbus.SystemClock{})
	token, hash := s.MintJob()
	a := runningAttempt(t, st)
	set := func(edit func(*scheduler.Attempt, time.Time)) {
		t.Helper()
		err := st.Update(ctx, func(tx scheduler.Tx) error {
			a, err := tx.Attempt(ctx, a.AttemptID)
			if err != nil {
				return err
			}
			edit(a, tx.Now())
			return tx.SaveAttempt(ctx, a)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	inert := func(when string) {
		t.Helper()
		if p, err := s.Authenticate(ctx, token); nimbus.ErrorCode(err) != nimbus.CodeUnauthenticated {
			t.Errorf("%s: %+v, %v", when, p, err)
		}
	}
	inert("before its attempt has it")
	set(func(a *scheduler.Attempt, _ time.Time) { a.TokenHash = hash })
	inert("before the job runs")
	set(func(a *scheduler.Attempt, now time.Time) { a.RunningAt = now })
	p, err := s.Authenticate(ctx, token)
	if err != nil || p.Kind != nimbus.PrincipalJob || p.OrgID != nimbus.DefaultOrgID || p.Subject != a.AttemptID {
		t.Errorf("%+v, %v", p, err)
	}
	if job, err := st.JobOfAttempt(ctx, p.OrgID, p.Subject); err != nil || job != a.JobID {
		t.Errorf("the attempt is of the job %q, %v", job, err)
	}
	if job, err := st.JobOfAttempt(ctx, nimbus.NewID(nimbus.PrefixOrg, time.Now()), p.Subject); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		t.Errorf("another org is told of the job %q, %v", job, err)
	}
	_, err = s.AuthenticateSession(ctx, token)
	refused(t, err)
	set(func(a *scheduler.Attempt, now time.Time) { a.ExpiresAt = now.Add(-time.Second) })
	inert("after its lease ran out")
	set(func(a *scheduler.Attempt, now time.Time) {
		a.ExpiresAt, a.State = now.Add(time.Minute), scheduler.AttemptEnded
	})
	inert("after its attempt ended")
}

// runningAttempt puts a live attempt of a new job into the books.
func runningAttempt(t *testing.T, st *store.Store) *scheduler.Attempt {
	t.Helper()
	ctx := t.Context()
	a := &scheduler.Attempt{OrgID: nimbus.DefaultOrgID, State: scheduler.AttemptLive}
	err := st.Update(ctx, func(tx scheduler.Tx) error {
		j := &scheduler.JobRecord{Job: nimbus.Job{ID: nimbus.NewID(nimbus.PrefixJob, tx.Now()), OrgID: nimbus.DefaultOrgID}}
		a.JobID, a.HostID, a.AttemptID = j.ID, nimbus.NewID(nimbus.PrefixHost, tx.Now()), nimbus.NewID(nimbus.PrefixAttempt, tx.Now())
		a.ExpiresAt = tx.Now().Add(time.Minute)
		fence, err := tx.MintFences(ctx, 1, 0)
		a.Fence = fence
		return errors.Join(err, tx.InsertHost(ctx, nimbus.Host{ID: a.HostID, Name: "h"}), tx.InsertJob(ctx, j, "test"), tx.InsertAttempt(ctx, a))
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func testExpiry(t *testing.T, s *store.Store) {
	ctx := t.Context()
	id := identity.New(s, nimbus.SystemClock{})
	join, _, err := id.IssueJoin(ctx, identity.Root(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.OffsetClock(ctx, 2*time.Minute); err != nil {
		t.Fatal(err)
	}
	refused(t, id.RedeemJoin(ctx, join))
	if _, _, err := id.IssueJoin(ctx, identity.Root(), 48*time.Hour); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
		t.Errorf("a join token for two days: %v", err)
	}
}

func testSecrets(t *testing.T, s *store.Store) {
	ctx := t.Context()
	keyring, err := identity.OpenKeyring(t.TempDir() + "/master.key")
	if err != nil {
		t.Fatal(err)
	}
	secrets := identity.Secrets{Store: s, Keyring: keyring}
	for _, value := range []string{"first", "second"} {
		if err := secrets.Put(ctx, nimbus.DefaultOrgID, "webhook", []byte(value), nimbus.AuditEvent{}); err != nil {
			t.Fatal(err)
		}
		if got, err := secrets.Get(ctx, nimbus.DefaultOrgID, "webhook"); err != nil || string(got) != value {
			t.Errorf("%q, %v", got, err)
		}
	}
	if _, err := secrets.Get(ctx, "org_other", "webhook"); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		t.Errorf("another org: %v", err)
	}
	// Moved to another org in the database it does not open.
	sealed, err := s.Secret(ctx, nimbus.DefaultOrgID, "webhook")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keyring.Open("org_other", "webhook", sealed); err == nil {
		t.Error("a secret opened as another org's")
	}
}
