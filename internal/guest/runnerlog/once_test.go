package runnerlog

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// script is a job of random steps, looked at whenever chance will have it.
type script struct {
	*fake
	tail  *Tail
	wrote []string // in the order of the job's page, names of steps included
	pages []string // whole, not removed yet
	steps int
	blind bool // a page was removed that may not have been seen
}

func (s *script) next(rt *rapid.T) {
	s.over(rt)
	s.steps++
	s.now = s.now.Add(time.Duration(rapid.IntRange(0, 1500).Draw(rt, "ms")) * time.Millisecond)
	name := fmt.Sprintf("step %d", s.steps)
	s.begin(name)
	s.wrote = append(s.wrote, stepDirective+name)
	s.print(rt) // the runner always writes something first
}

func (s *script) print(rt *rapid.T) {
	for range rapid.IntRange(1, 40).Draw(rt, "lines") {
		text := rapid.SampledFrom([]string{"", "a", "b", "a longer line, such as compilers write", strings.Repeat("w", 2000)}).Draw(rt, "text")
		s.write(text)
		s.wrote = append(s.wrote, text)
	}
}

// over ends the step's page, and perhaps removes it before it can be seen.
func (s *script) over(rt *rapid.T) {
	s.pages = append(s.pages, s.end(s.step))
	if rapid.IntRange(0, 9).Draw(rt, "at once") == 0 {
		s.blind = true
		s.clean(rt)
	}
}

func (s *script) rotate(rt *rapid.T) {
	s.over(rt)
	s.print(rt)
}

// rotateJob begins another page of the job; those before stay to the end.
func (s *script) rotateJob(rt *rapid.T) {
	s.end(s.job)
	s.print(rt)
}

func (s *script) clean(*rapid.T) {
	for _, path := range s.pages {
		s.must(os.Remove(path))
	}
	s.pages = nil
}

func (s *script) look(*rapid.T) { s.tail.look() }

// TestOnce: however pages are flushed, rotated, removed and looked at, every
// line of the job is shown once. Where no page was removed before it could be
// seen, all are in order and under the name of their step.
func TestOnce(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			rt.Fatal(err)
		}
		var out strings.Builder
		tail, err := newTail([]string{filepath.Join(dir, "_diag")}, func(b []byte) { out.Write(b) })
		if err != nil {
			rt.Fatal(err)
		}
		defer tail.close()
		s := &script{fake: newFake(rt, filepath.Join(dir, "_diag")), tail: tail}
		s.start()
		s.wrote = append(s.wrote, stepDirective+setUpStep)
		s.print(rt)
		seen := func(rt *rapid.T) { s.look(rt); s.clean(rt) }
		rt.Repeat(map[string]func(*rapid.T){
			"next":  s.next,
			"print": s.print, "rotate": s.rotate, "rotate job": s.rotateJob, "seen": seen, "look": s.look,
		})
		s.end(s.step)
		s.end(s.job)
		tail.look()
		tail.finish()
		got := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		if s.blind {
			isStep := func(line string) bool { return strings.HasPrefix(line, stepDirective) }
			got, s.wrote = slices.DeleteFunc(got, isStep), slices.DeleteFunc(s.wrote, isStep)
			slices.Sort(got)
			slices.Sort(s.wrote)
		}
		if diff := cmp.Diff(s.wrote, got); diff != "" {
			rt.Fatalf("blind %v: %s", s.blind, diff)
		}
	})
}
