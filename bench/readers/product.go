package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/bench/replica"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/wire"
	"github.com/nimbus-ci/nimbus/test/simhost"
)

// mostJobs is how many jobs the simulated host holds: one for each log.
const mostJobs = 64

// text is what a line says: as long as lines of builds are.
func text(seq int) string {
	return fmt.Sprintf("[%06d] INFO  compile internal/module%02d/file_%d.go: 312 symbols, 0 warnings, cache miss, took %d ms", seq, seq%40, seq, seq%997)
}

// product is the built program, with a job for each log that a simulated host writes.
type product struct {
	plane *replica.Plane
	host  *simhost.Host
	token string
}

func startProduct(ctx context.Context, dir string) (_ *product, stop func(), err error) {
	plane, err := replica.Start(ctx, dir, "")
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	stop = func() {
		cancel()
		plane.Stop()
	}
	hosts, err := replica.Join(ctx, plane.Client, 1, mostJobs)
	if err != nil {
		stop()
		return nil, nil, err
	}
	token, err := os.ReadFile(plane.TokenFile)
	if err != nil {
		stop()
		return nil, nil, fmt.Errorf("read the administrator's token: %w", err)
	}
	go func() { // a host that says nothing loses its jobs
		for ctx.Err() == nil {
			_, _ = hosts[0].Heartbeat(ctx) // the next one may come through
			time.Sleep(5 * time.Second)
		}
	}()
	return &product{plane, hosts[0], strings.TrimSpace(string(token))}, stop, nil
}

func (p *product) pid() int { return p.plane.PID() }

// begin has a job begin.
func (p *product) begin(ctx context.Context) (endpoint, appender, error) {
	j, err := p.plane.Client.Submit(ctx, client.Submission{Spec: nimbus.Spec{Command: []string{"true"}, Timeout: time.Hour}})
	if err != nil {
		return endpoint{}, nil, fmt.Errorf("submit a job: %w", err)
	}
	lease, err := p.take(ctx)
	if err != nil {
		return endpoint{}, nil, err
	}
	add := func(ctx context.Context, first, n int) error {
		r := &nimbusv1.AppendLogRequest{Lease: lease}
		now := time.Now()
		for seq := first; seq < first+n; seq++ {
			r.Lines = append(r.Lines, wire.Line(nimbus.Line{Seq: int64(seq), At: now, Stream: nimbus.StreamStdout, Text: text(seq)}))
		}
		answer, err := p.host.API.AppendLog(ctx, connect.NewRequest(r))
		if err == nil && answer.Msg.GetAcknowledgedSeq() != int64(first+n-1) {
			err = fmt.Errorf("%d lines are acknowledged of %d", answer.Msg.GetAcknowledgedSeq(), first+n-1)
		}
		return err
	}
	return endpoint{strings.TrimPrefix(p.plane.URL, "http://"), "/api/v1/jobs/" + j.ID + "/log/stream", p.token}, add, nil
}

// take accepts the job that waits.
func (p *product) take(ctx context.Context) (*nimbusv1.Lease, error) {
	for {
		offers, err := p.host.Poll(ctx, time.Second)
		if err != nil {
			return nil, fmt.Errorf("poll: %w", err)
		}
		if len(offers) == 0 {
			continue
		}
		lease := offers[0].GetLease()
		p.host.Hold(lease)
		if _, err := p.host.Accept(ctx, lease); err != nil {
			return nil, fmt.Errorf("accept: %w", err)
		}
		return lease, nil
	}
}

// profileSpan is how long the server is profiled, in seconds.
const profileSpan = "30"

// profile takes a CPU profile of the server into the folder that PROFILE names, if any.
// What it returns waits until that is there.
func profile(ctx context.Context, p *replica.Plane) (wait func() error) {
	dir := os.Getenv("PROFILE")
	if dir == "" {
		return func() error { return nil }
	}
	taken := make(chan error, 1)
	go func() { taken <- takeProfile(ctx, p, dir) }()
	return func() error { return <-taken }
}

func takeProfile(ctx context.Context, p *replica.Plane, dir string) (err error) {
	token, err := os.ReadFile(p.TokenFile)
	if err != nil {
		return fmt.Errorf("read the administrator's token: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make a folder for profiles: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL+"/debug/pprof/profile?seconds="+profileSpan, nil)
	if err != nil {
		return fmt.Errorf("ask for a profile: %w", err)
	}
	r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return fmt.Errorf("ask for a profile: %w", err)
	}
	defer answer.Body.Close()
	out, err := os.Create(filepath.Join(dir, "server.cpu"))
	if err != nil {
		return fmt.Errorf("make a profile: %w", err)
	}
	_, err = io.Copy(out, answer.Body)
	return errors.Join(err, out.Close())
}
