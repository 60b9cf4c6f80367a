// Command visible measures how soon what a job writes is seen by who follows it in a
// browser: of the first byte of a job that has just begun, and of each line of one
// that writes on, on a machine whose CPUs are all busy with something else.
//
// The floor is the least that lies between the two: a process that writes to a pipe, a
// program that reads it, syncs it to a file, and sends it to a reader over HTTP.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/bench/report"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

func main() {
	ctx := context.Background()
	switch args := os.Args[1:]; {
	case len(args) == 3 && args[0] == "write":
		exit(write(args[1], args[2]))
	case len(args) == 1 && args[0] == "burn":
		burn()
	default:
		exit(run(ctx))
	}
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-visible:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// write is the job: so many lines, each of which says when it was written.
func write(count, apart string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return fmt.Errorf("read how many lines: %w", err)
	}
	pause, err := time.ParseDuration(apart)
	if err != nil {
		return fmt.Errorf("read how far apart: %w", err)
	}
	for range n {
		fmt.Println(time.Now().UnixNano())
		time.Sleep(pause)
	}
	return nil
}

// burn keeps a CPU busy until it is killed.
func burn() {
	for sum := 0; ; sum++ {
		_ = sum
	}
}

// since is how long ago a line was written, in ms.
func since(line string) (float64, error) {
	at, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read when a line was written: %w", err)
	}
	return float64(time.Now().UnixNano()-at) / 1e6, nil
}

const linesApart = "20ms"

func run(ctx context.Context) error {
	jobs, lines := 200, 1000
	if os.Getenv("QUICK") != "" {
		jobs, lines = 40, 300
	}
	r := report.New("visible")
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	dir, err := os.MkdirTemp("", "nimbus-bench-visible-")
	if err != nil {
		return fmt.Errorf("make work folder: %w", err)
	}
	defer os.RemoveAll(dir)
	c, stop, err := startProduct(ctx, dir)
	if err != nil {
		return err
	}
	defer stop()
	quiet, err := keepBusy(ctx, self)
	if err != nil {
		return err
	}
	defer quiet()

	b := &bench{client: c, self: self, dir: dir}
	var first, firstFloor []float64
	for i := range jobs {
		if i%20 == 0 {
			fmt.Fprintf(os.Stderr, "bench-visible: job %d of %d\n", i, jobs)
		}
		got, err := b.follow(ctx, 1)
		if err != nil {
			return err
		}
		least, err := b.floor(ctx, 1)
		if err != nil {
			return err
		}
		first, firstFloor = append(first, got...), append(firstFloor, least...)
	}
	fmt.Fprintf(os.Stderr, "bench-visible: %d lines of one job\n", lines)
	each, err := b.follow(ctx, lines)
	if err != nil {
		return err
	}
	eachFloor, err := b.floor(ctx, lines)
	if err != nil {
		return err
	}
	const what = "a pipe, a synced file, HTTP"
	tell := func(name string, of, least []float64, share float64, goal float64) {
		v, f := percentile(of, share), percentile(least, share)
		text, ok := "", func(float64, float64) bool { return true }
		if goal > 0 {
			text, ok = fmt.Sprintf("value<=%v", goal), func(v, _ float64) bool { return v <= goal }
		}
		r.Add(name, "ms", []float64{v}, []float64{f}, what, text, ok)
	}
	tell("first_byte_p50_ms", first, firstFloor, 0.5, 0)
	tell("first_byte_p99_ms", first, firstFloor, 0.99, 400)
	tell("line_p50_ms", each, eachFloor, 0.5, 0)
	tell("line_p99_ms", each, eachFloor, 0.99, 400)
	return r.Write(os.Stdout)
}

func percentile(of []float64, share float64) float64 {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[min(len(sorted)-1, int(share*float64(len(sorted))))]
}

type bench struct {
	client    *client.Client
	self, dir string
}

// follow submits a job and follows its log from before it begins.
func (b *bench) follow(ctx context.Context, lines int) (took []float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	j, err := b.client.Submit(ctx, client.Submission{Spec: nimbus.Spec{Command: []string{b.self, "write", strconv.Itoa(lines), linesApart}}})
	if err != nil {
		return nil, fmt.Errorf("submit a job: %w", err)
	}
	for event, err := range b.client.FollowLog(ctx, j.ID) {
		if err != nil {
			return nil, fmt.Errorf("follow a log: %w", err)
		}
		if event.Kind != client.LogLine || event.Line.Stream != nimbus.StreamStdout {
			continue
		}
		ms, err := since(event.Line.Text)
		if err != nil {
			return nil, err
		}
		took = append(took, ms)
	}
	if len(took) != lines {
		return nil, fmt.Errorf("a job wrote %d lines, %d came", lines, len(took))
	}
	return took, nil
}

// floor runs the same command, and sends what it writes to one reader.
func (b *bench) floor(ctx context.Context, lines int) (took []float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	srv := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := b.relay(r.Context(), w, lines); err != nil {
			fmt.Fprintln(os.Stderr, "bench-visible: the floor:", err)
		}
	})}
	go func() { _ = srv.Serve(l) }() // ends with Close
	defer srv.Close()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+l.Addr().String(), nil)
	if err != nil {
		return nil, fmt.Errorf("make a request: %w", err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask the floor: %w", err)
	}
	defer answer.Body.Close()
	for in := bufio.NewScanner(answer.Body); in.Scan(); {
		ms, err := since(in.Text())
		if err != nil {
			return nil, err
		}
		took = append(took, ms)
	}
	if len(took) != lines {
		return nil, fmt.Errorf("the floor has %d lines of %d", len(took), lines)
	}
	return took, nil
}

// relay is the floor's server.
func (b *bench) relay(ctx context.Context, w http.ResponseWriter, lines int) error {
	flush := http.NewResponseController(w)
	if err := flush.Flush(); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	kept, err := os.Create(filepath.Join(b.dir, "floor.log"))
	if err != nil {
		return fmt.Errorf("keep what comes: %w", err)
	}
	defer kept.Close()
	cmd := exec.CommandContext(ctx, b.self, "write", strconv.Itoa(lines), linesApart)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("make a pipe: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the command: %w", err)
	}
	for in := bufio.NewScanner(out); in.Scan(); {
		_, err := fmt.Fprintln(kept, in.Text())
		if err = errors.Join(err, kept.Sync()); err != nil {
			return fmt.Errorf("keep what comes: %w", err)
		}
		if _, err := fmt.Fprintln(w, in.Text()); err != nil {
			return fmt.Errorf("send what comes: %w", err)
		}
		if err := flush.Flush(); err != nil {
			return fmt.Errorf("send what comes: %w", err)
		}
	}
	return cmd.Wait()
}

// keepBusy burns all CPUs until quiet is called.
func keepBusy(ctx context.Context, self string) (quiet func(), err error) {
	var burners []*exec.Cmd
	quiet = func() {
		for _, b := range burners {
			_ = b.Process.Kill() // it has nothing to finish
			_ = b.Wait()
		}
	}
	for range runtime.NumCPU() {
		b := exec.CommandContext(ctx, self, "burn")
		b.Env = append(os.Environ(), "GOMAXPROCS=1")
		if err := testenv.StartBound(b); err != nil {
			quiet()
			return nil, fmt.Errorf("keep a CPU busy: %w", err)
		}
		burners = append(burners, b)
	}
	return quiet, nil
}

// startProduct starts `nimbus up` with the executor whose sandboxes cost least: what
// is measured begins with the job.
func startProduct(ctx context.Context, dir string) (_ *client.Client, stop func(), err error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, fmt.Errorf("find a free port: %w", err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		return nil, nil, fmt.Errorf("find a free port: %w", err)
	}
	data := filepath.Join(dir, "data")
	up := exec.CommandContext(ctx, "bin/nimbus", "up", "--listen", addr, "--data", data, "--executors", "local")
	var said strings.Builder
	up.Stdout, up.Stderr = io.Discard, &said
	if err := up.Start(); err != nil {
		return nil, nil, fmt.Errorf("start nimbus up: %w", err)
	}
	stop = func() {
		_ = up.Process.Signal(syscall.SIGTERM) // it may have ended
		_ = up.Wait()
	}
	for range 400 {
		token, err := os.ReadFile(filepath.Join(data, "admin.token"))
		if answer, asked := http.Get("http://" + addr + "/readyz"); err == nil && asked == nil {
			_ = answer.Body.Close() // nothing of it is read
			if answer.StatusCode == http.StatusOK {
				c, err := client.New(client.Config{Server: "http://" + addr, Token: strings.TrimSpace(string(token))})
				if err != nil {
					stop()
					return nil, nil, fmt.Errorf("make a client: %w", err)
				}
				return c, stop, nil
			}
		} else if asked == nil {
			_ = answer.Body.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	stop()
	return nil, nil, fmt.Errorf("nimbus up does not answer: %s", said.String())
}
