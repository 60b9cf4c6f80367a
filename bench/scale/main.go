// Command scale measures what hosts cost that have nothing to do: simulated
// hosts, in a process of their own with a connection each, that poll for work
// and send a heartbeat every 5 s, on one replica with PostgreSQL beside it.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus/bench/process"
	"github.com/nimbus-ci/nimbus/bench/replica"
	"github.com/nimbus-ci/nimbus/bench/report"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// fleet is a measured one.
type fleet struct {
	hosts                  int
	p99MS                  float64
	serverCPU, databaseCPU float64 // CPUs that are busy
	rssBytes               int64
}

const settings = "shared_buffers = 256MB\nmax_connections = 200\n"

func main() {
	ctx := context.Background()
	var err error
	if len(os.Args) == 5 && os.Args[1] == "hosts" {
		err = beHosts(ctx, os.Args[2], os.Args[3], os.Args[4])
	} else {
		err = run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-scale:", err)
		os.Exit(1)
	}
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench-scale: "+format+"\n", args...)
}

func run(ctx context.Context) error {
	r := report.New("scale")
	sizes, watch := []int{0, 100, 1000, 10_000}, 40*time.Second
	if os.Getenv("QUICK") != "" {
		sizes, watch = []int{0, 50, 200, 800}, 10*time.Second
	}
	var fleets []fleet
	for _, n := range sizes {
		f, err := measure(ctx, n, watch)
		if err != nil {
			return fmt.Errorf("%d hosts: %w", n, err)
		}
		progress("%d hosts: heartbeat p99 %.1f ms, server %.3f CPUs and %.0f MB, database %.3f CPUs", n, f.p99MS, f.serverCPU,
			float64(f.rssBytes)/1e6, f.databaseCPU)
		fleets = append(fleets, f)
	}
	tell(r, fleets)
	return r.Write(os.Stdout)
}

// measure starts a replica of its own for n hosts and watches it for a while.
func measure(ctx context.Context, n int, watch time.Duration) (f fleet, err error) {
	dir, err := os.MkdirTemp("", "nimbus-bench-scale-")
	if err != nil {
		return f, fmt.Errorf("make work folder: %w", err)
	}
	defer os.RemoveAll(dir)
	db, err := testenv.StartPostgres(settings)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	database, err := db.Create(ctx, "scale", "")
	if err != nil {
		return f, err
	}
	p, err := replica.Start(ctx, dir, database)
	if err != nil {
		return f, err
	}
	defer p.Stop()
	hosts, err := startHosts(ctx, p, n)
	if err != nil {
		return f, err
	}
	defer hosts.stop()
	before, err := cpus(p.PID(), db.Pid())
	if err != nil {
		return f, err
	}
	began := time.Now()
	p99, err := hosts.watch(watch)
	if err != nil {
		return f, err
	}
	took := time.Since(began).Seconds()
	after, err := cpus(p.PID(), db.Pid())
	if err != nil {
		return f, err
	}
	rss, err := process.RSS(p.PID())
	return fleet{hosts: n, p99MS: p99, serverCPU: (after[0] - before[0]).Seconds() / took,
		databaseCPU: (after[1] - before[1]).Seconds() / took, rssBytes: rss}, err
}

func cpus(server, database int) (out [2]time.Duration, err error) {
	if out[0], err = process.CPU(server); err != nil {
		return out, err
	}
	out[1], err = process.TreeCPU(database)
	return out, err
}

// tell makes figures of what was measured, and a table of what more would need.
func tell(r *report.Report, fleets []fleet) {
	idle, first, last := fleets[0], fleets[1], fleets[len(fleets)-1]
	busy := func(f fleet) float64 { return max(f.serverCPU+f.databaseCPU-idle.serverCPU-idle.databaseCPU, 1e-4) }
	r.Add("heartbeat_p99_ms_10000", "ms", []float64{last.p99MS}, nil, "", "value<=1000", func(v, _ float64) bool { return v <= 1000 }).Rows = last.hosts
	perThousand := busy(last) / float64(last.hosts) * 1000
	r.Add("cpu_per_1000_hosts", "CPUs", []float64{perThousand}, nil, "", "value<=0.2", func(v, _ float64) bool { return v <= 0.2 }).Rows = last.hosts
	perHost := float64(last.rssBytes-idle.rssBytes) / 1024 / float64(last.hosts)
	r.Add("rss_kb_per_host", "KiB", []float64{perHost}, nil, "", "value<=150", func(v, _ float64) bool { return v <= 150 }).Rows = last.hosts
	// As for a cost that grows with the hosts to this power; 1 is linear.
	growth := math.Log(busy(last)/busy(first)) / math.Log(float64(last.hosts)/float64(first.hosts))
	r.Add("growth_exponent", "", []float64{growth}, nil, "", "value<=1.05", func(v, _ float64) bool { return v <= 1.05 }).Rows = last.hosts
	progress("from the slope at %d hosts, idle ones:", last.hosts)
	progress("%10s %12s %12s %14s", "hosts", "CPUs", "of database", "memory, MB")
	for _, n := range []int{1000, 10_000, 100_000} {
		share := float64(n) / float64(last.hosts)
		progress("%10d %12.2f %12.2f %14.0f", n, (last.serverCPU-idle.serverCPU)*share, (last.databaseCPU-idle.databaseCPU)*share,
			(float64(idle.rssBytes)+float64(last.rssBytes-idle.rssBytes)*share)/1e6)
	}
}

// hosts is the process of the simulated hosts.
type hosts struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// startHosts returns once all have joined.
func startHosts(ctx context.Context, p *replica.Plane, n int) (*hosts, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own program: %w", err)
	}
	h := &hosts{cmd: exec.CommandContext(ctx, self, "hosts", p.URL, p.TokenFile, strconv.Itoa(n))}
	h.cmd.Stderr = os.Stderr
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("read from the hosts: %w", err)
	}
	h.out = bufio.NewReader(out)
	if h.in, err = h.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("write to the hosts: %w", err)
	}
	if err := h.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the hosts: %w", err)
	}
	if line, err := h.out.ReadString('\n'); err != nil {
		h.stop()
		return nil, fmt.Errorf("the hosts did not join: %q: %w", line, err)
	}
	return h, nil
}

// watch lets time pass, and returns the 99th percentile of the heartbeats in it.
func (h *hosts) watch(d time.Duration) (float64, error) {
	if _, err := fmt.Fprintln(h.in, d); err != nil {
		return 0, fmt.Errorf("tell the hosts: %w", err)
	}
	line, err := h.out.ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("ask the hosts: %w", err)
	}
	return strconv.ParseFloat(strings.TrimSpace(line), 64)
}

func (h *hosts) stop() {
	h.in.Close()
	_ = h.cmd.Wait() // its errors are on stderr
}
