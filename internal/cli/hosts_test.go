package cli

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store"
)

// addHosts puts hosts into the server's books, and returns their ids.
func (c connected) addHosts(t *testing.T, names ...string) (ids []string) {
	t.Helper()
	db, err := store.Open(t.Context(), store.Config{DSN: "sqlite:" + filepath.Join(c.data, "nimbus.db"), AsIs: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.Update(t.Context(), func(tx scheduler.Tx) error {
		ids = nil
		for _, name := range names {
			id := nimbus.NewID(nimbus.PrefixHost, tx.Now())
			if err := tx.InsertHost(t.Context(), nimbus.Host{ID: id, Name: name}); err != nil {
				return err
			}
			ids = append(ids, id)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// TestHostsByName: a name that one host has is as good as its id; of one that
// several have the ids are told, and nothing is done.
func TestHostsByName(t *testing.T) {
	t.Parallel()
	c := startConnected(t)
	ids := c.addHosts(t, "rack-7", "twin", "twin")
	for line, says := range map[string]string{
		"hosts cordon rack-7":       "rack-7 (" + ids[0] + ") is away, cordoned and runs 0 jobs",
		"hosts cordon " + ids[1]:    "twin (" + ids[1] + ") is away, cordoned and runs 0 jobs",
		"hosts uncordon " + ids[2]:  "twin (" + ids[2] + ") is away and runs 0 jobs",
		"hosts remove --force nix":  `there is no host "nix"`,
		"hosts drain twin":          `2 hosts are called "twin"`,
		"hosts uncordon twin":       ids[2],
		"hosts remove twin --force": ids[1],
	} {
		code, _, stderr := c.now(t, strings.Fields(line)...)
		if !strings.Contains(stderr, says) || (code == ExitOK) != strings.Contains(says, " runs ") {
			t.Errorf("%s: exit code %d: %s", line, code, stderr)
		}
	}
	if code, _, stderr := c.now(t, "hosts", "remove", "rack-7"); code != ExitOK || !strings.Contains(stderr, ids[0]) {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	code, out, _ := c.now(t, "hosts", "--json")
	if code != ExitOK || strings.Contains(out, ids[0]) || !strings.Contains(out, ids[1]) || !strings.Contains(out, ids[2]) {
		t.Errorf("exit code %d: %s", code, out)
	}
}

// TestUnusable: an executor without a hint has no empty brackets.
func TestUnusable(t *testing.T) {
	t.Parallel()
	for hint, want := range map[string]string{"": "rack-7 can't use docker: away", "start it": "rack-7 can't use docker: away (start it)"} {
		if got := unusable("rack-7", executorView{Name: "docker", Detail: "away", Hint: hint}); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
