// Command idle measures what `nimbus up` costs when there is nothing to do:
// how soon it is ready, how much memory it holds, how much CPU it burns. The
// floor is a bare program that opens SQLite and serves one HTTP handler.
package main

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	_ "modernc.org/sqlite" // the floor's database

	"github.com/nimbus-ci/nimbus/bench/process"
	"github.com/nimbus-ci/nimbus/bench/report"
)

func main() {
	ctx := context.Background()
	if len(os.Args) == 3 && os.Args[1] == "floor" {
		exit(floor(ctx, os.Args[2]))
	}
	exit(run(ctx))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-idle:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// floor opens a database in the current directory and serves /readyz.
func floor(ctx context.Context, addr string) error {
	db, err := sql.Open("sqlite", "floor.db?_pragma=journal_mode(WAL)")
	if err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	if _, err := db.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS t (a TEXT)"); err != nil {
		return fmt.Errorf("create table: %w", err)
	}
	srv := http.Server{Addr: addr, ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK)
	})}
	return srv.ListenAndServe()
}

// sample is one start of a program.
type sample struct {
	readyMS, rssMB, cpuPercent float64
}

func run(ctx context.Context) error {
	r := report.New("idle")
	starts, watch := 7, 20*time.Second
	if os.Getenv("QUICK") != "" {
		starts, watch = 3, 5*time.Second
	}
	dir, err := os.MkdirTemp("", "nimbus-bench-idle-")
	if err != nil {
		return fmt.Errorf("make work folder: %w", err)
	}
	defer os.RemoveAll(dir)
	nimbus, err := filepath.Abs("bin/nimbus")
	if err != nil {
		return fmt.Errorf("find bin/nimbus: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	product := func(addr string) []string {
		return []string{nimbus, "up", "--listen", addr, "--data", filepath.Join(dir, "data")}
	}
	bare := func(addr string) []string { return []string{self, "floor", addr} }

	fmt.Fprintln(os.Stderr, "bench-idle: first start (not counted)")
	if _, err := measure(ctx, dir, product, 0); err != nil {
		return err
	}
	var got, least []sample
	for i := range starts {
		fmt.Fprintf(os.Stderr, "bench-idle: start %d of %d, %s each\n", i+1, starts, watch)
		a, err := measure(ctx, dir, product, watch)
		if err != nil {
			return err
		}
		b, err := measure(ctx, dir, bare, watch)
		if err != nil {
			return err
		}
		got, least = append(got, a), append(least, b)
	}
	const what = "a bare program with SQLite and one HTTP handler"
	pick := func(s []sample, f func(sample) float64) []float64 {
		out := make([]float64, len(s))
		for i := range s {
			out[i] = f(s[i])
		}
		return out
	}
	ready := func(s sample) float64 { return s.readyMS }
	rss := func(s sample) float64 { return s.rssMB }
	cpu := func(s sample) float64 { return s.cpuPercent }
	r.Add("ready_ms", "ms", pick(got, ready), pick(least, ready), what, "value < 1000", func(v, _ float64) bool { return v < 1000 })
	r.Add("rss_mb", "MB", pick(got, rss), pick(least, rss), what, "value < 120", func(v, _ float64) bool { return v < 120 })
	r.Add("cpu_percent", "% of one core", pick(got, cpu), pick(least, cpu), what, "value < 1", func(v, _ float64) bool { return v < 1 })
	return r.Write(os.Stdout)
}

// measure starts a program, waits until /readyz answers, watches it idle for a
// while and stops it.
func measure(ctx context.Context, dir string, command func(addr string) []string, watch time.Duration) (s sample, err error) {
	addr, err := freeAddr(ctx)
	if err != nil {
		return s, err
	}
	args := command(addr)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	started := time.Now()
	if err := cmd.Start(); err != nil {
		return s, fmt.Errorf("start %s: %w", args[0], err)
	}
	defer func() {
		if stopErr := cmd.Process.Signal(syscall.SIGTERM); stopErr == nil {
			_ = cmd.Wait() // a signal ends the floor with an error: nothing to tell
		}
	}()
	if err := awaitReady(ctx, "http://"+addr+"/readyz"); err != nil {
		return s, fmt.Errorf("%s: %w\n%s", args[0], err, stderr.String())
	}
	s.readyMS = float64(time.Since(started).Microseconds()) / 1000
	if watch == 0 {
		return s, nil
	}
	// Starting costs CPU that is not idling.
	pause(ctx, 2*time.Second)
	before, err := process.CPU(cmd.Process.Pid)
	if err != nil {
		return s, err
	}
	pause(ctx, watch)
	after, err := process.CPU(cmd.Process.Pid)
	if err != nil {
		return s, err
	}
	s.cpuPercent = 100 * (after - before).Seconds() / watch.Seconds()
	resident, err := process.RSS(cmd.Process.Pid)
	s.rssMB = float64(resident) / 1e6
	return s, err
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func freeAddr(ctx context.Context) (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func awaitReady(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return fmt.Errorf("make request: %w", err)
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		if ctx.Err() != nil {
			return errors.New("not ready within 30 s")
		}
		pause(ctx, 2*time.Millisecond)
	}
}
