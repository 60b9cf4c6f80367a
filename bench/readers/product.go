package main

import (
	"context"
	"fmt"
	"os"
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
