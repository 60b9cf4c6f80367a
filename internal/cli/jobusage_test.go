package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
)

// TestSeriesAreSummedUp: rates in the mean, memory at its highest, the end always
// there.
func TestSeriesAreSummedUp(t *testing.T) {
	t.Parallel()
	s := nimbus.UsageSeries{Start: time.Unix(1, 0)}
	for i := 1; i <= 100; i++ {
		p := nimbus.UsageSample{At: time.Duration(i) * time.Second, CPU: time.Duration(i) * time.Second / 2, MemoryBytes: 10, WrittenBytes: int64(i) * 100}
		if i == 42 {
			p.MemoryBytes = 99
		}
		s.Add(p)
	}
	rows := ratesOf(s, 4)
	want := []rates{
		{at: 25 * time.Second, cpus: 0.5, memory: 10, written: 100},
		{at: 50 * time.Second, cpus: 0.5, memory: 99, written: 100},
		{at: 75 * time.Second, cpus: 0.5, memory: 10, written: 100},
		{at: 100 * time.Second, cpus: 0.5, memory: 10, written: 100},
	}
	if diff := cmp.Diff(want, rows, cmp.AllowUnexported(rates{})); diff != "" {
		t.Error(diff)
	}
	s.Points = s.Points[:3]
	if rows := ratesOf(s, 20); len(rows) != 3 {
		t.Errorf("of three points: %+v", rows)
	}
}

func TestSizesAreForPeople(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1536: "1.5 KiB", 300 << 20: "300 MiB", 5 << 40: "5.0 TiB"} {
		if got := size(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}

// TestTopIsATable of hosts with what each runs below it; nobody's text moves the
// cursor.
func TestTopIsATable(t *testing.T) {
	t.Parallel()
	now := time.Now()
	all := top{at: now, more: true,
		hosts: []nimbus.Host{
			{ID: "host_a", Name: "rack-1", State: nimbus.HostReady, SeenAt: now, Running: 2, Inventory: nimbus.Inventory{CPUs: 8, MemoryMiB: 16384},
				Free: nimbus.Capacity{CPUs: 3, MemoryMiB: 8192, Sandboxes: 60, Load: nimbus.Load{CPU: 12.4, Disk: 40},
					Copies: nimbus.CacheCopies{Hits: 7, Misses: 1, Bytes: 3 << 30, Limit: 10 << 30}}},
			{ID: "host_b", Name: "rack-2", State: nimbus.HostReady, SeenAt: now, Inventory: nimbus.Inventory{CPUs: 4, MemoryMiB: 4096, GivesCPUs: 6},
				Free: nimbus.Capacity{Load: nimbus.Load{Memory: 33, Closed: nimbus.PressureMemory, Why: "everything waits"}}},
		},
		jobs: []nimbus.HostJob{
			{HostID: "host_a", JobID: "job_1", Name: "build\x1b[2J", Class: nimbus.Class{CPUs: 4, MemoryMiB: 6144}, AcceptedAt: now.Add(-time.Minute), ToldAt: now, CPUs: 3.256, MemoryBytes: 1 << 30},
			{HostID: "host_a", JobID: "job_2", Name: "lint", Class: nimbus.Class{CPUs: 1, MemoryMiB: 2048}, AcceptedAt: now.Add(-time.Second)},
		},
	}
	text := string(all.text(now))
	if strings.Contains(text, "\x1b") {
		t.Errorf("a job's name moves the cursor: %q", text)
	}
	var got []string
	for line := range strings.Lines(text) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	want := []string{
		"2 hosts, 2 jobs, " + now.Format("15:04:05"), "",
		"HOST / JOB STATE CPUS MEMORY CPU MEM IO DISK CACHE SINCE",
		"rack-1 ready 5/8 8192/16384 MiB 12 % 0 % 0 % 40 % 3.0 GiB, 88 % seen 0 ms ago",
		"build [2J job_1 3.26/4 1024/6144 MiB 60 s",
		"lint job_2 -/1 -/2048 MiB 1 s",
		"rack-2 ready, closed: memory ?/6 ?/4096 MiB 0 % 33 % 0 % 0 % - seen 0 ms ago",
		"", "only the first 2 jobs are shown",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestUsageOfShortJob: what is known in all is told, be there a series or not.
func TestUsageOfShortJob(t *testing.T) {
	t.Parallel()
	for _, known := range []bool{true, false} {
		var out, errs bytes.Buffer
		a := &app{root: &root{}, Streams: Streams{Out: &out, Err: &errs}}
		u := client.Usage{AttemptID: "att_1"}
		if known {
			u.Totals.CPUTime = 250 * time.Millisecond
		}
		if err := a.showUsage(u); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out.String(), "att_1") != known || strings.Contains(errs.String(), "nothing is known") == known {
			t.Errorf("known: %v: %q, %q", known, out.String(), errs.String())
		}
	}
}
