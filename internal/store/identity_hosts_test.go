package store_test

import (
	"crypto/ed25519"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/bearer"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// enrolled is a host with a key, seen from its own side.
type enrolled struct {
	id     string
	key    ed25519.PrivateKey
	number int64
}

func (h *enrolled) claim() (token string, c bearer.Claim) {
	h.number++
	token = bearer.New(bearer.Host)
	return token, bearer.Claim{HostID: h.id, Number: h.number, TokenHash: bearer.Hash(token)}
}

func enroll(t *testing.T, s *store.Store, id *identity.Service) *enrolled {
	t.Helper()
	public, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	h := &enrolled{key: key}
	err = s.Update(t.Context(), func(tx scheduler.Tx) error {
		h.id = nimbus.NewID(nimbus.PrefixHost, tx.Now())
		return tx.InsertHost(t.Context(), nimbus.Host{ID: h.id, Name: "h", JoinedAt: tx.Now(), SeenAt: tx.Now()})
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := id.EnrollHost(t.Context(), h.id, public, ""); err != nil {
		t.Fatal(err)
	}
	return h
}

func remove(t *testing.T, s *store.Store, hostID string) {
	t.Helper()
	if err := s.Update(t.Context(), func(tx scheduler.Tx) error { return tx.RemoveHost(t.Context(), hostID) }); err != nil {
		t.Fatal(err)
	}
}

// TestHostSessions runs the same cases on both engines, with two services on
// one database as two replicas have it.
func TestHostSessions(t *testing.T) {
	t.Parallel()
	for name, dsn := range map[string]func(*testing.T) string{
		"sqlite":   func(t *testing.T) string { return "sqlite:" + t.TempDir() + "/nimbus.db" },
		"postgres": func(t *testing.T) string { return testenv.Postgres(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, dsn(t))
			one, other := identity.New(s, nimbus.SystemClock{}), identity.New(s, nimbus.SystemClock{})
			t.Run("one after another", func(t *testing.T) { testSessionsFollow(t, s, one, other) })
			t.Run("remembered", func(t *testing.T) { testRememberedSessionEnds(t, s, one, other) })
			t.Run("replay", func(t *testing.T) { testReplay(t, s, one) })
			t.Run("removed", func(t *testing.T) { testRemovedHost(t, s, one, other) })
			t.Run("removed meanwhile", func(t *testing.T) { testRemovedMeanwhile(t, s, one) })
			t.Run("old token", func(t *testing.T) { testTokenOfBefore(t, s, one) })
		})
	}
}

func testSessionsFollow(t *testing.T, s *store.Store, one, other *identity.Service) {
	ctx, h := t.Context(), enroll(t, s, one)
	defer s.OffsetClock(ctx, 0)
	first, c := h.claim()
	if got, err := one.OpenHostSession(ctx, c, c.Sign(h.key)); err != nil || !got.Opened || got.ValidFor != identity.HostSessionFor {
		t.Fatalf("%+v, %v", got, err)
	}
	if p, err := other.Authenticate(ctx, first); err != nil || p.Kind != nimbus.PrincipalHost || p.Subject != h.id {
		t.Errorf("on the other replica it is %+v, %v", p, err)
	}
	// The answer was lost: the host asks again, and gets what is left.
	if err := s.OffsetClock(ctx, 10*time.Minute); err != nil {
		t.Fatal(err)
	}
	if got, err := other.OpenHostSession(ctx, c, c.Sign(h.key)); err != nil || !got.Opened || got.ValidFor > identity.HostSessionFor-10*time.Minute {
		t.Errorf("asked again: %+v, %v", got, err)
	}
	second, c := h.claim()
	if _, err := one.OpenHostSession(ctx, c, c.Sign(h.key)); err != nil {
		t.Fatal(err)
	}
	for _, token := range []string{first, second} {
		if _, err := other.Authenticate(ctx, token); err != nil {
			t.Errorf("within the overlap: %v", err)
		}
	}
	if err := s.OffsetClock(ctx, 13*time.Minute); err != nil {
		t.Fatal(err)
	}
	_, err := one.Authenticate(ctx, first)
	refused(t, err)
	if _, err := one.Authenticate(ctx, second); err != nil {
		t.Error(err)
	}
	if err := s.OffsetClock(ctx, 3*time.Hour); err != nil {
		t.Fatal(err)
	}
	_, err = one.Authenticate(ctx, second)
	refused(t, err)
	third, c := h.claim() // it was away for longer than a session
	if got, err := one.OpenHostSession(ctx, c, c.Sign(h.key)); err != nil || !got.Opened {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := one.Authenticate(ctx, third); err != nil {
		t.Error(err)
	}
}

// testRememberedSessionEnds: a replica that remembers a token hears that there is
// another one, and then when the first ends.
func testRememberedSessionEnds(t *testing.T, s *store.Store, one, other *identity.Service) {
	ctx, h := t.Context(), enroll(t, s, one)
	defer s.OffsetClock(ctx, 0)
	first, c := h.claim()
	_, err := one.OpenHostSession(ctx, c, c.Sign(h.key))
	if err = errors.Join(err, other.Refresh(ctx)); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Authenticate(ctx, first); err != nil {
		t.Fatal(err)
	}
	_, c = h.claim()
	_, err = one.OpenHostSession(ctx, c, c.Sign(h.key))
	if err = errors.Join(err, other.Refresh(ctx), s.OffsetClock(ctx, 3*time.Minute)); err != nil {
		t.Fatal(err)
	}
	_, err = other.Authenticate(ctx, first)
	refused(t, err)
}

// testReplay: what somebody keeps of a host's claims opens nothing.
func testReplay(t *testing.T, s *store.Store, id *identity.Service) {
	ctx, h := t.Context(), enroll(t, s, id)
	defer s.OffsetClock(ctx, 0)
	old, oldClaim := h.claim()
	oldSignature := oldClaim.Sign(h.key)
	if _, err := id.OpenHostSession(ctx, oldClaim, oldSignature); err != nil {
		t.Fatal(err)
	}
	last, lastClaim := h.claim()
	if _, err := id.OpenHostSession(ctx, lastClaim, lastClaim.Sign(h.key)); err != nil {
		t.Fatal(err)
	}
	if err := s.OffsetClock(ctx, 2*time.Hour); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]bearer.Claim{"an old claim": oldClaim, "the last claim": lastClaim} {
		if got, err := id.OpenHostSession(ctx, c, c.Sign(h.key)); err != nil || got.Opened || got.Number != 2 {
			t.Errorf("%s opened a session: %+v, %v", what, got, err)
		}
	}
	for _, token := range []string{old, last} {
		_, err := id.Authenticate(ctx, token)
		refused(t, err)
	}
	_, stolen := h.claim()
	_, err := id.OpenHostSession(ctx, stolen, oldSignature)
	refused(t, err)
	_, foreign, errKey := ed25519.GenerateKey(nil)
	if errKey != nil {
		t.Fatal(errKey)
	}
	_, err = id.OpenHostSession(ctx, stolen, stolen.Sign(foreign))
	refused(t, err)
	for _, hash := range []string{"", "x", strings.ToUpper(stolen.TokenHash), stolen.TokenHash + "0"} {
		bad := bearer.Claim{HostID: h.id, Number: 9, TokenHash: hash}
		if _, err := id.OpenHostSession(ctx, bad, bad.Sign(h.key)); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
			t.Errorf("the hash %q: %v", hash, err)
		}
	}
}

// testRemovedHost: a host that is removed is nobody at once, and its key opens
// nothing any more.
func testRemovedHost(t *testing.T, s *store.Store, one, other *identity.Service) {
	ctx, h := t.Context(), enroll(t, s, one)
	token, c := h.claim()
	if _, err := one.OpenHostSession(ctx, c, c.Sign(h.key)); err != nil {
		t.Fatal(err)
	}
	remove(t, s, h.id)
	_, err := other.Authenticate(ctx, token)
	refused(t, err)
	for range 2 { // the claim that opened a session before, and a fresh one
		_, err = other.OpenHostSession(ctx, c, c.Sign(h.key))
		refused(t, err)
		if !strings.Contains(err.Error(), "removed") || nimbus.ErrorHint(err) == "" {
			t.Errorf("it is told %v, hint %q", err, nimbus.ErrorHint(err))
		}
		_, c = h.claim()
	}
	if err := one.EnrollHost(ctx, h.id, make([]byte, ed25519.PublicKeySize), ""); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		t.Errorf("a removed host got a key: %v", err)
	}
	unknown := &enrolled{id: "host_unknown", key: h.key}
	_, c = unknown.claim()
	_, err = one.OpenHostSession(ctx, c, c.Sign(h.key))
	refused(t, err)
}

// testRemovedMeanwhile: whatever order a removal and the opening of sessions
// take, no token is left that works.
func testRemovedMeanwhile(t *testing.T, s *store.Store, id *identity.Service) {
	ctx := t.Context()
	for range 10 {
		h := enroll(t, s, id)
		var tokens []string
		var all sync.WaitGroup
		for range 6 {
			token, c := h.claim()
			tokens = append(tokens, token)
			all.Go(func() { _, _ = id.OpenHostSession(ctx, c, c.Sign(h.key)) }) // refused or not
		}
		all.Go(func() { remove(t, s, h.id) })
		all.Wait()
		for _, token := range tokens {
			_, err := id.Authenticate(ctx, token)
			refused(t, err)
		}
	}
}

// testTokenOfBefore: a host of a release without sessions goes on with its
// token until it has opened one, and no row of old sessions is kept.
func testTokenOfBefore(t *testing.T, s *store.Store, id *identity.Service) {
	ctx, h := t.Context(), enroll(t, s, id)
	defer s.OffsetClock(ctx, 0)
	forever, err := id.IssueHost(ctx, h.id)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.OffsetClock(ctx, 1000*time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, err := id.Authenticate(ctx, forever); err != nil {
		t.Errorf("before its first session: %v", err)
	}
	if err := id.EnrollHost(ctx, h.id, h.key.Public().(ed25519.PublicKey), ""); err != nil {
		t.Errorf("the same key again: %v", err)
	}
	if err := id.EnrollHost(ctx, h.id, make([]byte, ed25519.PublicKeySize), ""); nimbus.ErrorCode(err) != nimbus.CodeConflict {
		t.Errorf("another key: %v", err)
	}
	before, err := s.CountTokens(ctx, identity.KindHost)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		_, c := h.claim()
		if _, err := id.OpenHostSession(ctx, c, c.Sign(h.key)); err != nil {
			t.Fatal(err)
		}
	}
	if after, err := s.CountTokens(ctx, identity.KindHost); err != nil || after > before+1 {
		t.Errorf("20 sessions left %d rows, %v", after-before, err)
	}
	if err := s.OffsetClock(ctx, 1000*time.Hour+3*time.Minute); err != nil {
		t.Fatal(err)
	}
	_, err = id.Authenticate(ctx, forever)
	refused(t, err)
}
