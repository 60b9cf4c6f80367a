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
)

// TestAJob follows a job from end to end, its lines while its steps still run:
// what is in a page is shown before the step goes on.
func TestAJob(t *testing.T) {
	t.Parallel()
	tail, f, out := follow(t)
	f.start()
	f.write("Current runner version: '2.337.0'", "Secret source: Actions")
	setUp := f.end(f.step)
	out.await(t, "Secret source: Actions\n")
	f.must(os.Remove(setUp))
	f.now = f.now.Add(3 * time.Second)
	f.begin("Run make")
	out.await(t, "::nimbus-step::Run make\n") // its name, before it has written anything
	f.write("##[group]Run make", "made", "##[endgroup]")
	pad := strings.Repeat("x", flushAt)
	f.write(pad) // so that what came before is flushed
	out.await(t, "##[group]Run make\nmade\n##[endgroup]\n")
	f.write("one message\nof two lines")
	f.must(os.Remove(f.end(f.step)))
	f.say("StepsRunner", "Processing step: DisplayName='Not now'")
	f.say("StepsRunner", "Skipping step due to condition evaluation.")
	f.now = f.now.Add(time.Second)
	f.begin("Post checkout")
	f.write("Post job cleanup.")
	post := f.end(f.step)
	out.await(t, "Post job cleanup.\n")
	f.must(os.Remove(post))
	f.finalize()
	f.write("Cleaning up orphan processes")
	f.end(f.step)
	f.end(f.job)
	if !tail.Finish() {
		t.Error("it had no job")
	}
	want := "::nimbus-step::Set up job\nCurrent runner version: '2.337.0'\nSecret source: Actions\n" +
		"::nimbus-step::Run make\n##[group]Run make\nmade\n##[endgroup]\n" + pad + "\none message\nof two lines\n" +
		"::nimbus-step::Post checkout\nPost job cleanup.\n" +
		"::nimbus-step::Complete job\nCleaning up orphan processes\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

// TestPagesRotate: a record's pages follow each other while they are read, and
// are removed behind the reader's back.
func TestPagesRotate(t *testing.T) {
	t.Parallel()
	tail, f, out := follow(t)
	f.start()
	var want []string
	for page := range 30 {
		for i := range 300 {
			want = append(want, fmt.Sprintf("page %d line %d", page, i))
			f.write(want[len(want)-1])
		}
		gone := f.end(f.step)
		if page%3 != 0 {
			f.must(os.Remove(gone)) // seen or not
		}
		if page%10 == 9 {
			f.end(f.job) // stays: the runner removes it at the job's end
		}
	}
	tail.Finish()
	got := strings.Split(strings.TrimSpace(out.String()), "\n")[1:]
	count := map[string]int{}
	for _, line := range got {
		count[line]++
	}
	for _, line := range want {
		if count[line] != 1 {
			t.Fatalf("%q is shown %d times", line, count[line])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d lines, want %d", len(got), len(want))
	}
}

// TestAPageThatWasNeverSeen: a step's page is gone before it could be opened;
// its lines come from the job's page, in their place and once.
func TestAPageThatWasNeverSeen(t *testing.T) {
	t.Parallel()
	tail, f, out := follow(t)
	f.start()
	f.write("set up")
	f.end(f.step)
	out.await(t, "set up\n")
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	f.must(err)
	f.step = &fakeRecord{id: "missed", file: null} // a page that nobody can see
	f.write("missed", "the same")
	f.must(null.Close())
	f.now = f.now.Add(2 * time.Second)
	f.begin("Seen")
	f.write("the same", "seen")
	f.end(f.step)
	out.await(t, "seen\n")
	f.add(f.job, "of no step")
	f.end(f.job)
	tail.Finish()
	want := "::nimbus-step::Set up job\nset up\n::nimbus-step::Seen\nthe same\nseen\nmissed\nthe same\nof no step\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

// TestOnlyPlainFiles: what a job puts among the pages is neither followed nor
// waited for.
func TestOnlyPlainFiles(t *testing.T) {
	t.Parallel()
	tail, f, out := follow(t)
	secret := filepath.Join(t.TempDir(), "secret")
	f.must(os.WriteFile(secret, []byte("2026-08-17T14:15:44.0000000Z secret\n"), 0o600))
	name := func(n int) string {
		return filepath.Join(f.diag, pagesDir, fmt.Sprintf("00000000-1111-4000-8000-000000000000_%08x-0000-4000-8000-000000000000_1.log", n))
	}
	f.must(os.Symlink(secret, name(100)))
	f.must(mkfifo(name(101)))
	f.must(os.Mkdir(name(102), 0o700))
	f.must(os.WriteFile(filepath.Join(f.diag, pagesDir, "note.txt"), []byte("a note\n"), 0o600))
	f.start()
	f.write("plain")
	f.end(f.step)
	f.end(f.job)
	tail.Finish()
	if got, want := out.String(), "::nimbus-step::Set up job\nplain\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestNoWorkerLog: without the log that names the job, its lines are there all
// the same, once.
func TestNoWorkerLog(t *testing.T) {
	t.Parallel()
	tail, f, out := follow(t)
	f.step = f.record()
	f.write("one")
	f.end(f.step)
	f.step = f.record()
	f.write("two")
	f.end(f.step)
	f.end(f.job)
	if tail.Finish() {
		t.Error("it is said to have had a job")
	}
	if got, want := out.String(), "one\ntwo\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestKilled: the runner died with a line half written.
func TestKilled(t *testing.T) {
	t.Parallel()
	tail, f, out := follow(t)
	f.start()
	long := strings.Repeat("y", 2*maxPiece+100)
	f.write(long, "cut "+strings.Repeat("z", flushAt))
	tail.Finish() // what is in the runner's buffers is lost
	got := out.String()
	if !strings.Contains(got, "\n"+long+"\n") || strings.Count(got, "cut zzz") > 1 || !strings.HasSuffix(got, "z\n") {
		t.Errorf("%d bytes, end with %q", len(got), got[max(0, len(got)-50):])
	}
}

// TestCuts: wherever the reads end, a long line is cut in the same places.
func TestCuts(t *testing.T) {
	t.Parallel()
	text := byteOrderMark + "2026-08-17T14:15:44.0000000Z " + strings.Repeat("y", 2*maxPiece+7) + "\n\nend\n"
	var want []line
	for _, size := range []int{1 << 30, maxPiece, maxPiece + 1, 32 << 10, 4095, 31} {
		var got []line
		p := &page{}
		for rest := []byte(text); len(rest) > 0; {
			n := min(size, len(rest))
			p.take(rest[:n], func(_ time.Time, n line) { got = append(got, n) })
			rest = rest[n:]
		}
		if want == nil {
			want = got
		}
		if len(got) != 5 || !slices.Equal(got, want) || len(got[0].text) != maxPiece || len(got[2].text) != 7 || got[4].text != "end" {
			t.Errorf("reads of %d bytes: %d pieces", size, len(got))
		}
	}
}

// TestSideBySide: steps that run beside each other flush when they like. A line
// that was taken from the job's page, since a later one of another step was
// seen first, is not shown again when its own step's page has it.
func TestSideBySide(t *testing.T) {
	t.Parallel()
	tail, f, out := follow(t)
	f.start()
	f.write("set up")
	f.end(f.step)
	f.begin("Slow")
	slow := f.step
	f.write("slow begins", "the same")
	f.begin("Quick")
	f.write("the same", "quick")
	f.end(f.step)
	out.await(t, "quick\n")
	f.end(f.job) // before the slow step has flushed anything
	out.await(t, "slow begins\n")
	f.step = slow
	f.add(slow, "of the slow alone")
	f.end(slow)
	tail.Finish()
	got := strings.Split(out.String(), "\n")
	for text, want := range map[string]int{"slow begins": 1, "the same": 2, "quick": 1, "of the slow alone": 1} {
		n := 0
		for _, line := range got {
			if line == text {
				n++
			}
		}
		if n != want {
			t.Errorf("%q is shown %d times, not %d:\n%s", text, n, want, out)
		}
	}
}

// TestUnwatched: where the kernel has no watch left, lines are live all the same.
func TestUnwatched(t *testing.T) {
	t.Parallel()
	tail, f, out := follow(t, (*Tail).unwatch)
	f.start()
	f.write("set up")
	f.end(f.step)
	out.await(t, "set up\n")
	f.end(f.job)
	tail.Finish()
}

// TestSilentStep: a step that wrote nothing does not lend its name to the next.
func TestSilentStep(t *testing.T) {
	t.Parallel()
	tail, f, out := follow(t)
	f.start()
	f.write("set up")
	f.end(f.step)
	f.now = f.now.Add(time.Second)
	f.begin("Silent")
	f.now = f.now.Add(3 * time.Second)
	f.begin("Loud")
	f.now = f.now.Add(2 * time.Second)
	f.write("loud")
	f.end(f.step)
	f.end(f.job)
	tail.Finish()
	want := "::nimbus-step::Set up job\nset up\n::nimbus-step::Silent\n::nimbus-step::Loud\nloud\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

// TestDebugging: of a job that is debugged the pages name their steps
// themselves, skipped ones too.
func TestDebugging(t *testing.T) {
	t.Parallel()
	tail, f, out := follow(t)
	f.start()
	f.add(f.job, "##[debug]Starting: Build")
	f.write("set up")
	f.end(f.step)
	f.say("StepsRunner", "Processing step: DisplayName='Skipped'")
	f.step = f.record()
	f.write("##[debug]Evaluating condition for step: 'Skipped'")
	f.say("StepsRunner", "Skipping step due to condition evaluation.")
	f.end(f.step)
	f.begin("Runs")
	f.write("##[debug]Evaluating condition for step: 'Runs'", "it runs")
	f.end(f.step)
	f.end(f.job)
	tail.Finish()
	got := strings.Replace(out.String(), "##[debug]Starting: Build\n", "", 1) // of no step: once, somewhere
	want := "::nimbus-step::Set up job\nset up\n::nimbus-step::Skipped\n##[debug]Evaluating condition for step: 'Skipped'\n" +
		"::nimbus-step::Runs\n##[debug]Evaluating condition for step: 'Runs'\nit runs\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestWatch: a change in a folder is told.
func TestWatch(t *testing.T) {
	t.Parallel()
	w, err := newWatch()
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	dir := t.TempDir()
	if err := w.add(dir); err != nil {
		t.Fatal(err)
	}
	for _, data := range []string{"made", "longer"} {
		if err := os.WriteFile(filepath.Join(dir, "page"), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		select {
		case <-w.changed:
		case <-time.After(20 * time.Second):
			t.Fatalf("it was not told that a file was %s", data)
		}
	}
}
