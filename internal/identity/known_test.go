package identity

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// user is a token of a user that works until a time.
func user(id string, until time.Time) entry {
	return entry{principal: nimbus.Principal{Kind: nimbus.PrincipalUser, TokenID: "tok_" + id, Subject: "user_" + id}, parent: "parent_" + id, until: until}
}

func TestWhatIsKnownIsForgotten(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for subject, stays := range map[string]bool{
		"tok_a": false, "user_a": false, "parent_a": false, "": false, "tok_b": true, "user_b": true,
	} {
		k := newKnown()
		k.heed(now, 7, nil)
		k.keep("a", user("a", now.Add(time.Minute)))
		if _, ok := k.find("a", now); !ok {
			t.Fatal("it isn't known")
		}
		k.heed(now, 7, []Revocation{{Seq: 8, Subject: subject}})
		if _, ok := k.find("a", now); ok != stays {
			t.Errorf("after %q was revoked: known %v", subject, ok)
		}
		if seq, _ := k.position(); seq != 8 {
			t.Errorf("it heeded up to %d", seq)
		}
	}
}

func TestWhatIsKnownAges(t *testing.T) {
	t.Parallel()
	now := time.Now()
	k := newKnown()
	k.keep("a", user("a", now.Add(time.Minute)))
	if _, ok := k.find("a", now); ok {
		t.Error("it is believed before the revocations were read once")
	}
	k.heed(now, 0, nil)
	if _, ok := k.find("a", now.Add(staleAfter-1)); !ok {
		t.Error("it isn't believed although the revocations were just read")
	}
	if _, ok := k.find("a", now.Add(staleAfter)); ok {
		t.Error("it is believed although the revocations were not read for a while")
	}
	k.heed(now.Add(time.Minute), 0, nil)
	if _, ok := k.find("a", now.Add(time.Minute)); ok {
		t.Error("it is believed beyond its time")
	}
	if len(k.entries) != 0 {
		t.Error("what is over is kept")
	}
}

func TestWhatIsKnownIsBounded(t *testing.T) {
	t.Parallel()
	now := time.Now()
	k := newKnown()
	for i := range maxKnown + 100 {
		k.keep(fmt.Sprint(i), user("a", now))
	}
	for i := range maxUsed + 100 {
		k.touch(fmt.Sprint(i))
	}
	if len(k.entries) != maxKnown || len(k.use) != maxUsed {
		t.Errorf("%d tokens, %d of them used", len(k.entries), len(k.use))
	}
}

// TestOneAsksForAll: of callers with one token that come at once, one asks the
// store; a failure is not remembered.
func TestOneAsksForAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newKnown()
		k.heed(time.Now(), 0, nil)
		var asked atomic.Int32
		answer := make(chan error)
		ask := func(context.Context) (entry, error) {
			asked.Add(1)
			return user("a", time.Now().Add(time.Minute)), <-answer
		}
		all := func() {
			var callers sync.WaitGroup
			for range 100 {
				callers.Go(func() { _, _ = k.once(t.Context(), "a", time.Now(), ask) })
			}
			synctest.Wait()
			answer <- nil
			callers.Wait()
		}
		go func() { _, _ = k.once(t.Context(), "a", time.Now(), ask) }()
		synctest.Wait()
		answer <- refused()
		synctest.Wait()
		if _, ok := k.find("a", time.Now()); ok || asked.Load() != 1 {
			t.Errorf("a refusal is known: %v; asked %d times", ok, asked.Load())
		}
		all()
		if _, ok := k.find("a", time.Now()); !ok || asked.Load() != 2 {
			t.Errorf("known: %v; asked %d times", ok, asked.Load())
		}
	})
}

// TestNothingIsKnownThatWasRevokedMeanwhile: the store answered, then the token
// was revoked and that was read, and only then the answer arrives.
func TestNothingIsKnownThatWasRevokedMeanwhile(t *testing.T) {
	t.Parallel()
	now := time.Now()
	k := newKnown()
	k.heed(now, 0, nil)
	_, err := k.once(t.Context(), "a", now, func(context.Context) (entry, error) {
		k.heed(now, 0, []Revocation{{Seq: 1, Subject: "tok_a"}})
		return user("a", now.Add(time.Minute)), nil
	})
	if _, ok := k.find("a", now); ok || err != nil {
		t.Errorf("it is known: %v, %v", ok, err)
	}
}

// TestAnAskerThatGoesAwayTakesNobodyAlong: who waits for its answer asks again.
func TestAnAskerThatGoesAwayTakesNobodyAlong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newKnown()
		k.heed(time.Now(), 0, nil)
		first, cancel := context.WithCancel(t.Context())
		go func() {
			_, _ = k.once(first, "a", time.Now(), func(ctx context.Context) (entry, error) {
				<-ctx.Done()
				return entry{}, ctx.Err()
			})
		}()
		synctest.Wait()
		second := make(chan error)
		go func() {
			_, err := k.once(t.Context(), "a", time.Now(), func(context.Context) (entry, error) { return user("a", time.Now()), nil })
			second <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-second; err != nil {
			t.Errorf("the second is told %v", err)
		}
	})
}

func TestTokensAreTouchedOnceAMinute(t *testing.T) {
	t.Parallel()
	now := time.Now()
	k := newKnown()
	k.heed(now, 0, nil)
	k.keep("a", user("a", now.Add(time.Hour)))
	k.find("a", now)
	if ids := k.used(now); len(ids) != 1 || ids[0] != "tok_a" {
		t.Errorf("used: %v", ids)
	}
	for i := range 60 {
		at := now.Add(time.Duration(i) * time.Second)
		k.heed(at, 0, nil)
		k.find("a", at)
		if ids := k.used(at); len(ids) != 0 {
			t.Fatalf("written again after %d s: %v", i, ids)
		}
	}
}
