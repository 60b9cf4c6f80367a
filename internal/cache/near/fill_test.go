package near

import (
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
)

// TestAllHasCome: who comes when all of a content has come and its first readers have
// left reads it, though it is not on the shelf yet; nobody is let in whose bytes don't
// come, or who finds it on the shelf.
func TestAllHasCome(t *testing.T) {
	t.Parallel()
	const content = "some content"
	s, err := openShelf(t.TempDir(), 100<<20, &tally{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	begin := func(id int64) *fill {
		size := int64(len(content))
		if !s.claim(fillCost(size)) {
			t.Fatal("there is no room")
		}
		f := newFill(s, name{org: nimbus.DefaultOrgID, id: id}, size, func() {})
		f.enter()
		return f
	}
	f := begin(1)
	pieces, err := f.takeIn(strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	f.leave()
	if !f.enter() {
		t.Fatal("all of it is here, and nobody may read it")
	}
	if err := f.publish(pieces, fillCost(f.size)); err != nil {
		t.Fatal(err)
	}
	file, n, err := f.open(t.Context(), 5)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if got, err := io.ReadAll(file); err != nil || string(got) != content[5:] || n != int64(len(got)) {
		t.Errorf("it reads %q as %d bytes, %v", got, n, err)
	}
	f.leave()
	if f.enter() {
		t.Error("one that is on the shelf is to be had elsewhere")
	}
	if h, ok := s.take(f.name, f.size); !ok || h.readers != 1 {
		t.Errorf("on the shelf it has other readers than the one: %+v, %t", h, ok)
	}
	cut := begin(2)
	cut.leave()
	if cut.enter() {
		t.Error("it does not come any more, and is waited for")
	}
}
