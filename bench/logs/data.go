package main

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// world is the jobs that write, and how far each is.
type world struct {
	size size
	rand *rand.Rand
	keys []nimbus.LogKey
	next []int64
	at   time.Time
	left int
}

func newWorld(s size) *world {
	w := &world{size: s, rand: rand.New(rand.NewPCG(7, 11)), next: make([]int64, s.Jobs), at: time.Unix(1_760_000_000, 0), left: s.Lines}
	orgs := make([]string, s.Orgs)
	for i := range orgs {
		orgs[i] = nimbus.NewID(nimbus.PrefixOrg, w.at)
	}
	for i := range s.Jobs {
		w.keys = append(w.keys, nimbus.LogKey{OrgID: orgs[i%s.Orgs], AttemptID: nimbus.NewID(nimbus.PrefixAttempt, w.at.Add(time.Duration(i)*time.Second))})
	}
	return w
}

// batch is what the jobs write next: runs of 20 to 120 lines of one after the other.
// It is nil at the end.
func (w *world) batch() map[int][]nimbus.Line {
	if w.left == 0 {
		return nil
	}
	out := map[int][]nimbus.Line{}
	for n := min(w.size.Batch, w.left); n > 0; {
		job := w.rand.IntN(w.size.Jobs)
		run := min(n, 20+w.rand.IntN(101))
		for range run {
			w.next[job]++
			w.at = w.at.Add(time.Duration(w.rand.IntN(300)) * time.Microsecond)
			stream := nimbus.StreamStdout
			if w.rand.IntN(20) == 0 {
				stream = nimbus.StreamStderr
			}
			out[job] = append(out[job], nimbus.Line{Seq: w.next[job], At: w.at, Stream: stream, Step: int32(1 + w.next[job]/5000), Text: w.text(w.next[job])})
		}
		n -= run
		w.left -= run
	}
	return out
}

// text is a line as builds, tests and services write them, with the ids that make them
// hard to compress.
func (w *world) text(seq int64) string {
	r := w.rand
	switch r.IntN(12) {
	case 0:
		return fmt.Sprintf("\x1b[32m✓\x1b[0m test/unit/module_%d.spec.ts > handles request %016x (%d ms)", r.IntN(400), r.Uint64(), r.IntN(900))
	case 1:
		return fmt.Sprintf("%s INFO  [worker-%d] processed batch id=%016x size=%d duration=%dms", w.at.Format(time.RFC3339Nano), r.IntN(16), r.Uint64(), r.IntN(10_000), r.IntN(2000))
	case 2:
		return fmt.Sprintf(`{"level":"info","ts":%d,"caller":"server/http.go:%d","msg":"request","method":"GET","path":"/api/v1/items/%d","status":200,"trace":"%016x%016x"}`, w.at.UnixMilli(), r.IntN(500), r.IntN(100_000), r.Uint64(), r.Uint64())
	case 3:
		return fmt.Sprintf("go: downloading github.com/example/library%d v1.%d.%d", r.IntN(900), r.IntN(40), r.IntN(20))
	case 4:
		return fmt.Sprintf("ok  \tgithub.com/example/project/internal/package%d\t%d.%03ds\tcoverage: %d.%d%% of statements", r.IntN(300), r.IntN(9), r.IntN(1000), r.IntN(100), r.IntN(10))
	case 5:
		return fmt.Sprintf("[%d/%d] Building CXX object src/CMakeFiles/core.dir/module_%d/file_%d.cpp.o", seq%4000, 4000, r.IntN(80), r.IntN(900))
	case 6:
		return fmt.Sprintf("%s WARN  retrying upload of layer sha256:%016x%016x attempt=%d", w.at.Format(time.RFC3339), r.Uint64(), r.Uint64(), r.IntN(5))
	case 7:
		return fmt.Sprintf("epoch %d step %d/%d loss=%.6f lr=%.2e tokens/s=%d grad_norm=%.4f", r.IntN(10), seq, 100_000, r.Float64()*3, r.Float64()/1000, r.IntN(90_000), r.Float64())
	case 8:
		return fmt.Sprintf("    at Object.<anonymous> (/builds/octo/app/src/components/Widget%d.tsx:%d:%d)", r.IntN(200), r.IntN(900), r.IntN(80))
	case 9:
		return fmt.Sprintf("#%d %d.%d Get:%d http://mirror.example/debian bookworm/main amd64 libexample%d amd64 %d.%d-%d [%d kB]", r.IntN(40), r.IntN(90), r.IntN(10), r.IntN(300), r.IntN(900), r.IntN(9), r.IntN(30), r.IntN(9), r.IntN(9000))
	case 10:
		return fmt.Sprintf("2026-01-01 ERROR connection to 10.%d.%d.%d:5432 failed: timeout after %d ms (request %016x)", r.IntN(255), r.IntN(255), r.IntN(255), r.IntN(30_000), r.Uint64())
	default:
		return fmt.Sprintf("Compiling crate_%d v0.%d.%d (/build/vendor/crate_%d)", r.IntN(700), r.IntN(30), r.IntN(30), r.IntN(700))
	}
}
