package server

import (
	"log/slog"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/store"
	"github.com/nimbus-ci/nimbus/internal/store/storetest"
)

// TestRoster: who is alone begins at once, who is new waits until all others know
// of it, who hears nothing stops, and who is gone is counted for as long as what
// it spent.
func TestRoster(t *testing.T) {
	t.Parallel()
	for engine, dsn := range map[string]func(testing.TB) string{"sqlite": storetest.SQLite, "postgres": storetest.Postgres} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			st, err := store.Open(t.Context(), store.Config{DSN: dsn(t)})
			if err != nil {
				t.Fatal(err)
			}
			defer st.Close()
			var now time.Time
			base := time.Now()
			pass := func(d time.Duration) {
				now = now.Add(d)
				if err := st.OffsetClock(t.Context(), now.Sub(time.Time{})); err != nil {
					t.Fatal(err)
				}
			}
			join := func(id string) *roster {
				r := newRoster(st, id, slog.New(slog.DiscardHandler))
				r.now = func() time.Time { return base.Add(now.Sub(time.Time{})) }
				return r
			}
			attend := func(all ...*roster) {
				t.Helper()
				for _, r := range all {
					if err := r.attend(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			}
			want := func(r *roster, within time.Duration, n int) {
				t.Helper()
				if got := r.count(within); got != n {
					t.Fatalf("%d replicas within %v, want %d", got, within, n)
				}
			}
			a, b := join("a"), join("b")
			want(a, time.Minute, 0)
			attend(a)
			want(a, time.Minute, 0) // another one may begin now
			pass(attendEvery)
			attend(a)
			want(a, time.Minute, 1)
			attend(b)
			want(a, time.Minute, 1)
			for range 5 {
				want(b, time.Minute, 0) // a may not know of it
				pass(attendEvery)
				attend(a, b)
				want(a, time.Minute, 2)
			}
			want(b, time.Minute, 2)
			b = join("b") // its process is another one
			attend(b)
			want(b, time.Minute, 2)
			want(a, time.Minute, 2)
			pass(attendedFor + time.Second) // the database is away
			want(a, time.Minute, 0)
			attend(a)
			want(a, time.Minute, 0) // b may not know of it any more
			for range 40 {
				pass(attendEvery)
				attend(a)
			}
			want(a, time.Minute, 1) // b is gone
			want(a, time.Hour, 2)   // and what it spent is not
			for range 13 {
				pass(5 * time.Minute)
				attend(a)
			}
			pass(attendEvery)
			attend(a)
			if got := len(a.silent); got != 1 { // itself
				t.Errorf("%d are remembered", got)
			}
		})
	}
}
