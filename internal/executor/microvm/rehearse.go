package microvm

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/guestlink"
)

// A rehearsal goes the way of a job's start with a process that does nothing.
// Before a machine is saved, it brings what a start needs into the memory that
// all machines share which are made of it. In a machine that waits it is there
// for the monitor: an emulated processor translates all code anew.

// rehearsal is the process.
var rehearsal = []string{"/bin/sh", "-c", ":"}

const (
	rehearsalTimeout = 30 * time.Second
	// rehearsalEvents bounds what the guest may say of a process that says nothing.
	rehearsalEvents = 64
)

// rehearse starts a process as a job's would be, over the connection on which
// the guest first answered, and waits for its end. A machine that has been made
// of another is told who it is first.
func (s *sandbox) rehearse(ctx context.Context, isClone bool) error {
	ctx, cancel := context.WithTimeout(ctx, rehearsalTimeout)
	defer cancel()
	conn, err := s.Dial(ctx)
	if err != nil {
		return fmt.Errorf("rehearse: %w", err)
	}
	c := guestlink.NewClient(conn, s.Token())
	defer func() { _ = c.Close() }() // the next connection ends it anyway
	if isClone {
		if _, err := c.Prepare(ctx, connect.NewRequest(s.introduction())); err != nil {
			return fmt.Errorf("rehearse: prepare: %w", err)
		}
	}
	if _, err := c.Start(ctx, connect.NewRequest(&nimbusv1.StartRequest{AttemptId: s.machine, Command: rehearsal, Rehearsal: true})); err != nil {
		return fmt.Errorf("rehearse: start: %w", err)
	}
	events, err := c.Watch(ctx, connect.NewRequest(&nimbusv1.WatchRequest{FromSeq: 1, Rehearsal: true}))
	if err != nil {
		return fmt.Errorf("rehearse: watch: %w", err)
	}
	defer func() { _ = events.Close() }() // its error is the stream's, which is told
	for range rehearsalEvents {
		if !events.Receive() {
			return fmt.Errorf("rehearse: watch: %w", events.Err())
		}
		if events.Msg().GetExited() != nil {
			return nil
		}
	}
	return errors.New("rehearse: the guest tells of no end")
}

// introduction is what a machine is told that has no job yet. With it, no two
// have random numbers in common even before their jobs come.
func (s *sandbox) introduction() *nimbusv1.PrepareRequest {
	entropy, id := make([]byte, 64), make([]byte, 16)
	rand.Read(entropy) // never fails
	rand.Read(id)
	return &nimbusv1.PrepareRequest{
		Now: timestamppb.Now(), Entropy: entropy, Hostname: "nimbus-waits", MachineId: hex.EncodeToString(id), Network: s.Network(),
	}
}
