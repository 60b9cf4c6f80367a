package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/guestlink"
)

// firstByte is what an agent does once there is a connection to a guest, until
// the job has said something.
func firstByte(ctx context.Context, conn net.Conn, token string, network *nimbusv1.NetworkConfig, l *laps) error {
	c := guestlink.NewClient(conn, token)
	defer c.Close()
	if err := prepare(ctx, c, network); err != nil {
		return err
	}
	l.lap("prepare")
	_, err := c.Start(ctx, connect.NewRequest(&nimbusv1.StartRequest{AttemptId: "att", Command: []string{"/bin/sh", "-c", "echo x"}}))
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	l.lap("start")
	events, err := c.Watch(ctx, connect.NewRequest(&nimbusv1.WatchRequest{FromSeq: 1}))
	if err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	defer events.Close()
	for events.Receive() {
		if len(events.Msg().GetOutput().GetData()) > 0 {
			l.lap("byte")
			return nil
		}
	}
	return fmt.Errorf("the job said nothing: %w", events.Err())
}

func prepare(ctx context.Context, c *guestlink.Client, network *nimbusv1.NetworkConfig) error {
	entropy := make([]byte, 64)
	rand.Read(entropy)
	_, err := c.Prepare(ctx, connect.NewRequest(&nimbusv1.PrepareRequest{
		Now: timestamppb.Now(), Entropy: entropy, Hostname: "bench", MachineId: "0123456789abcdef0123456789abcdef", Network: network,
	}))
	if err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	return nil
}

// rehearse is what the pool does before a machine waits.
func rehearse(ctx context.Context, conn net.Conn, network *nimbusv1.NetworkConfig) error {
	c := guestlink.NewClient(conn, "")
	defer c.Close()
	if err := prepare(ctx, c, network); err != nil {
		return err
	}
	_, err := c.Start(ctx, connect.NewRequest(&nimbusv1.StartRequest{AttemptId: "rehearsal", Command: []string{"/bin/sh", "-c", ":"}, Rehearsal: true}))
	if err != nil {
		return fmt.Errorf("rehearse: %w", err)
	}
	events, err := c.Watch(ctx, connect.NewRequest(&nimbusv1.WatchRequest{FromSeq: 1, Rehearsal: true}))
	if err != nil {
		return fmt.Errorf("rehearse: %w", err)
	}
	defer events.Close()
	for events.Receive() {
		if events.Msg().GetExited() != nil {
			return nil
		}
	}
	return fmt.Errorf("the rehearsal has no end: %w", events.Err())
}

// start is what an agent does from a claim to the first byte of the job. It
// returns what removes the sandbox.
func start(ctx context.Context, e executor.Executor, class nimbus.Class, dir string, p *parts) (took time.Duration, remove func() error, err error) {
	id := nimbus.NewID(nimbus.PrefixAttempt, time.Now())
	own := filepath.Join(dir, id[len(id)-8:])
	if err := os.Mkdir(own, 0o700); err != nil {
		return 0, nil, fmt.Errorf("make folder: %w", err)
	}
	began := time.Now()
	s, err := e.Create(ctx, executor.Spec{ID: id, Dir: own, Class: class, Deadline: 5 * time.Minute})
	if err != nil {
		return 0, nil, errors.Join(err, os.RemoveAll(own))
	}
	remove = func() error { return errors.Join(s.Destroy(ctx), os.RemoveAll(own)) }
	l := p.begin(origin(s))
	conn, err := s.Dial(ctx)
	if err != nil {
		return 0, nil, errors.Join(err, remove())
	}
	l.lap("dial")
	if err := firstByte(ctx, conn, s.Token(), s.Network(), l); err != nil {
		return 0, nil, errors.Join(err, remove())
	}
	return time.Since(began), remove, nil
}

// startOne removes the sandbox at once.
func startOne(ctx context.Context, e executor.Executor, class nimbus.Class, dir string, p *parts) (time.Duration, error) {
	return removed(start(ctx, e, class, dir, p))
}

// removed is a start whose sandbox is removed at once.
func removed(took time.Duration, remove func() error, err error) (time.Duration, error) {
	if err != nil {
		return 0, err
	}
	return took, remove()
}

func origin(s executor.Sandbox) string {
	if d, ok := s.(executor.Dated); ok {
		return string(d.Origin())
	}
	return "local"
}
