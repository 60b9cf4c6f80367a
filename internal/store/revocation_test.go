package store_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// replica is one of several that share a database and nothing else: it counts
// what it asks, and can be made deaf to revocations.
type replica struct {
	*identity.Service
	db *watched
}

type watched struct {
	*store.Store
	asked atomic.Int64
	deaf  atomic.Bool
}

func (w *watched) Bearer(ctx context.Context, hash string) (identity.Bearer, error) {
	w.asked.Add(1)
	return w.Store.Bearer(ctx, hash)
}

func (w *watched) Revocations(ctx context.Context, after int64, most int) ([]identity.Revocation, error) {
	if w.deaf.Load() {
		return nil, errors.New("the revocations can't be read")
	}
	return w.Store.Revocations(ctx, after, most)
}

// movedClock stands still until it is moved.
type movedClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *movedClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *movedClock) move(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(by)
}

func startReplica(t *testing.T, dsn string, clock nimbus.Clock) replica {
	t.Helper()
	db := &watched{Store: open(t, dsn)}
	r := replica{identity.New(db, clock), db}
	if err := r.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r
}

// knows makes the replica remember a token: it is accepted, and accepted again
// without asking.
func (r replica) knows(t *testing.T, token string) {
	t.Helper()
	for range 2 {
		if _, err := r.Authenticate(t.Context(), token); err != nil {
			t.Fatal(err)
		}
	}
	before := r.db.asked.Load()
	if _, err := r.Authenticate(t.Context(), token); err != nil || r.db.asked.Load() != before {
		t.Fatalf("a token that is known costs a query: %v", err)
	}
}

// TestRevocationReachesEveryReplica: two replicas on one PostgreSQL, no bus. A
// right that one of them takes away is refused by the other after its next
// look; and when the other can't look, within two seconds of the last it did.
func TestRevocationReachesEveryReplica(t *testing.T) {
	t.Parallel()
	dsn := testenv.Postgres(t)
	clock := &movedClock{now: time.Now()}
	one, other := startReplica(t, dsn, clock), startReplica(t, dsn, clock)
	ctx := t.Context()
	if _, _, err := one.IssueAdmin(ctx); err != nil { // somebody else must administer the platform
		t.Fatal(err)
	}
	root, _ := identity.Root().In(nimbus.DefaultOrgID)
	hostID := func() string { return nimbus.NewID(nimbus.PrefixHost, time.Now()) }
	for name, grant := range map[string]func(t *testing.T) (token string, revoke func() error){
		"a token": func(t *testing.T) (string, func() error) {
			secret, tok, err := one.CreateToken(ctx, root, nimbus.NewToken{Name: "t", Platform: true})
			if err != nil {
				t.Fatal(err)
			}
			return secret, func() error { return one.RevokeToken(ctx, root, tok.ID, "") }
		},
		"the token that made the one that made it": func(t *testing.T) (string, func() error) {
			d := directory{one.db.Store, one.Service}
			_, first, p := d.makes(t, root, nimbus.NewToken{Platform: true})
			_, _, p = d.makes(t, p, nimbus.NewToken{Platform: true})
			secret, _, _ := d.makes(t, p, nimbus.NewToken{Platform: true})
			return secret, func() error { return one.RevokeToken(ctx, root, first.ID, "") }
		},
		"a service account": func(t *testing.T) (string, func() error) {
			a, err1 := one.CreateAccount(ctx, root, "robot", nimbus.RoleViewer)
			secret, _, err2 := one.CreateToken(ctx, root, nimbus.NewToken{Name: "t", AccountID: a.ID})
			if err := errors.Join(err1, err2); err != nil {
				t.Fatal(err)
			}
			return secret, func() error { return one.DeleteAccount(ctx, root, a.ID) }
		},
		"a membership": func(t *testing.T) (string, func() error) {
			m, err1 := one.SetMember(ctx, root, "ada@example.com", "", nimbus.RoleViewer)
			ada, _ := nimbus.Principal{Kind: nimbus.PrincipalUser, Subject: m.UserID, Orgs: []nimbus.Membership{m}}.In(nimbus.DefaultOrgID)
			secret, _, err2 := one.CreateToken(ctx, ada, nimbus.NewToken{Name: "t"})
			if err := errors.Join(err1, err2); err != nil {
				t.Fatal(err)
			}
			return secret, func() error { return one.RemoveMember(ctx, root, m.UserID) }
		},
		"a host": func(t *testing.T) (string, func() error) {
			id := hostID()
			insert := func(tx scheduler.Tx) error { return tx.InsertHost(ctx, nimbus.Host{ID: id, Name: "h"}) }
			secret, err1 := one.IssueHost(ctx, id)
			if err := errors.Join(err1, one.db.Update(ctx, insert)); err != nil {
				t.Fatal(err)
			}
			return secret, func() error {
				return one.db.Update(ctx, func(tx scheduler.Tx) error { return tx.RemoveHost(ctx, id) })
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, deaf := range []bool{false, true} {
				token, revoke := grant(t)
				if err := other.Refresh(ctx); err != nil {
					t.Fatal(err)
				}
				other.knows(t, token)
				other.db.deaf.Store(deaf)
				if err := revoke(); err != nil {
					t.Fatal(err)
				}
				if _, err := other.Authenticate(ctx, token); err != nil {
					t.Errorf("it is refused before it can be known: the case proves nothing: %v", err)
				}
				if deaf {
					clock.move(2 * time.Second)
				}
				if err := other.Refresh(ctx); (err != nil) != deaf {
					t.Errorf("look for revocations: %v", err)
				}
				_, err := other.Authenticate(ctx, token)
				refused(t, err)
				other.db.deaf.Store(false)
				if err := other.Refresh(ctx); err != nil {
					t.Fatal(err)
				}
				_, err = other.Authenticate(ctx, token)
				refused(t, err)
			}
		})
	}
}

// TestWithoutRevocationsEachRequestAsks: a replica that can't look goes on
// serving those whose tokens work, by asking.
func TestWithoutRevocationsEachRequestAsks(t *testing.T) {
	t.Parallel()
	clock := &movedClock{now: time.Now()}
	r := startReplica(t, testenv.Postgres(t), clock)
	token, _, err := r.IssueAdmin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.knows(t, token)
	r.db.deaf.Store(true)
	clock.move(2 * time.Second)
	before := r.db.asked.Load()
	for range 3 {
		if _, err := r.Authenticate(t.Context(), token); err != nil {
			t.Fatal(err)
		}
	}
	if asked := r.db.asked.Load() - before; asked != 3 {
		t.Errorf("three requests asked %d times", asked)
	}
	r.db.deaf.Store(false)
	if err := r.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.knows(t, token)
}

// TestManyRevocationsAreReadAtOnce: more than one reading takes, and the one
// that matters is the last.
func TestManyRevocationsAreReadAtOnce(t *testing.T) {
	t.Parallel()
	clock := &movedClock{now: time.Now()}
	r := startReplica(t, testenv.Postgres(t), clock)
	ctx := t.Context()
	token, _, err1 := r.IssueAdmin(ctx)
	p, err2 := r.Authenticate(ctx, token)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	r.knows(t, token)
	subjects := make([]string, 1200)
	for i := range subjects {
		subjects[i] = "somebody else"
	}
	subjects[len(subjects)-1] = p.TokenID
	if err := errors.Join(r.db.Revoke(ctx, subjects...), r.Refresh(ctx)); err != nil {
		t.Fatal(err)
	}
	before := r.db.asked.Load()
	if _, err := r.Authenticate(ctx, token); err != nil || r.db.asked.Load() != before+1 {
		t.Errorf("it is still known: asked %d times, %v", r.db.asked.Load()-before, err)
	}
}

// TestOneFirstAdministrator: of replicas that start at once on an empty
// database one makes the token.
func TestOneFirstAdministrator(t *testing.T) {
	t.Parallel()
	for engine, dsn := range engines() {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			db := open(t, dsn(t))
			var made atomic.Int32
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					_, created, err := identity.New(db, nimbus.SystemClock{}).IssueAdmin(t.Context())
					if err != nil {
						t.Error(err)
					}
					if created {
						made.Add(1)
					}
				})
			}
			all.Wait()
			if made.Load() != 1 {
				t.Errorf("%d replicas made an administrator", made.Load())
			}
		})
	}
}

// TestATokenThatIsKnownExpires: by the database's clock, at the time that was
// left when it was asked.
func TestATokenThatIsKnownExpires(t *testing.T) {
	t.Parallel()
	clock := &movedClock{now: time.Now()}
	r := startReplica(t, testenv.Postgres(t), clock)
	ctx := t.Context()
	root, _ := identity.Root().In(nimbus.DefaultOrgID)
	token, _, err := r.CreateToken(ctx, root, nimbus.NewToken{Name: "t", Platform: true, ValidFor: 10 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.db.OffsetClock(ctx, 9*time.Minute); err != nil {
		t.Fatal(err)
	}
	r.knows(t, token)
	if err := r.db.OffsetClock(ctx, 10*time.Minute+time.Second); err != nil {
		t.Fatal(err)
	}
	r.knows(t, token) // nobody looked at the clock yet
	clock.move(time.Minute + time.Second)
	if err := r.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	_, err = r.Authenticate(ctx, token)
	refused(t, err)
}
