package ahead

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// host is one whose agent may begin anew.
type host struct {
	t       *testing.T
	file    string
	fetched []string
	fail    bool
}

func (h *host) keeper(always ...string) *Keeper {
	return New(Config{File: h.file, Always: always, Log: slog.New(slog.DiscardHandler), Fetch: func(_ context.Context, name string) error {
		h.fetched = append(h.fetched, name)
		if h.fail {
			return errors.New("the registry is away")
		}
		return nil
	}})
}

// runs has a keeper run for a while, and returns what it fetched.
func (h *host) runs(k *Keeper, d time.Duration, may bool) []string {
	h.t.Helper()
	h.fetched = nil
	ctx, cancel := context.WithTimeout(h.t.Context(), d)
	defer cancel()
	k.Run(ctx, func() bool { return may })
	return h.fetched
}

// TestKeeper fetches what jobs asked for, the last one first, not sooner again than
// it has to; and knows that still when the agent begins anew.
func TestKeeper(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := &host{t: t, file: filepath.Join(t.TempDir(), "new", "asked.json")}
		k := h.keeper("always:1")
		k.Used("node:22")
		time.Sleep(time.Second)
		k.Used("python:3")
		if got := h.runs(k, 5*time.Hour, true); !slices.Equal(got, []string{"always:1", "python:3", "node:22"}) {
			t.Errorf("%q are fetched", got)
		}
		if got := h.runs(k, 2*time.Hour, true); len(got) != 3 {
			t.Errorf("after six hours %q are fetched again", got)
		}
		k = h.keeper()
		if got := h.runs(k, time.Hour, false); len(got) != 0 {
			t.Errorf("though nothing may be fetched, %q are", got)
		}
		if got := h.runs(k, time.Hour, true); !slices.Equal(got, []string{"python:3", "node:22"}) {
			t.Errorf("another agent fetches %q", got)
		}
		h.fail = true
		if got := h.runs(h.keeper(), 90*time.Minute, true); len(got) != 4 {
			t.Errorf("what fails is tried again after an hour, not as %q", got)
		}
		time.Sleep(8 * 24 * time.Hour)
		if got := h.runs(h.keeper(), time.Hour, true); len(got) != 0 {
			t.Errorf("nobody asked for a week, and %q are fetched", got)
		}
	})
}

// TestBounds: however many names tenants think of, few are fetched and not many
// remembered.
func TestBounds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := &host{t: t, file: filepath.Join(t.TempDir(), "asked.json")}
		k := h.keeper()
		for i := range 500 {
			time.Sleep(time.Second)
			k.Used(fmt.Sprint("image:", i))
		}
		if got := h.runs(k, time.Hour, true); len(got) != Images || got[0] != "image:499" || len(k.used) != remembered {
			t.Errorf("%d images are fetched, %q first; %d are remembered", len(got), got[0], len(k.used))
		}
		for _, text := range []string{"{", "null"} {
			if err := os.WriteFile(h.file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			k := h.keeper()
			if got := h.runs(k, time.Hour, true); len(got) != 0 {
				t.Errorf("of a broken file %q are fetched", got)
			}
			k.Used("node:22")
		}
		many := map[string]time.Time{}
		for i := range 3 * remembered {
			many[fmt.Sprint("image:", i)] = time.Now()
		}
		text, err := json.Marshal(many)
		if err == nil {
			err = os.WriteFile(h.file, text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if k := h.keeper(); len(k.used) != remembered {
			t.Errorf("of a file of too many names %d are remembered", len(k.used))
		}
	})
}
