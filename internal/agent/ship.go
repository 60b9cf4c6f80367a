package agent

import (
	"context"
	"fmt"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// shipBytes is how much text one call carries.
const shipBytes = 1 << 20

// runShipLoop sends lines until ctx ends or the control plane wants no more.
// The host's copy of a line goes once the server has acknowledged it.
func (t *attempt) runShipLoop(ctx context.Context) error {
	var pause backoff
	for {
		changed := t.wal.Changed()
		last, _ := t.wal.Last()
		acked := t.wal.Acked()
		if acked >= last {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return nil
			}
		}
		err := t.ship(ctx, acked)
		switch {
		case err == nil:
			pause = backoff{}
		case ctx.Err() != nil:
			return nil //nolint:nilerr // told to stop
		case nimbus.ErrorCode(err) == nimbus.CodeTooLarge:
			t.end(errOutputLimit)
			return err
		case !retryable(err):
			return err
		case !pause.wait(ctx):
			return nil
		}
	}
}

// ship sends what follows the acknowledged lines.
func (t *attempt) ship(ctx context.Context, acked int64) error {
	page, err := t.wal.Read(acked+1, shipBytes)
	if err != nil {
		return nimbus.Errorf(nimbus.CodeInvalid, "%w", err) // not worth a retry
	}
	request := &nimbusv1.AppendLogRequest{Lease: wire.Lease(t.lease())}
	for _, line := range page {
		request.Lines = append(request.Lines, wire.Line(line))
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := t.agent.control.AppendLog(ctx, connect.NewRequest(request))
	if err != nil {
		return err
	}
	seq := answer.Msg.GetAcknowledgedSeq()
	if seq < acked {
		// The server has less than it had: it would be asked for ever.
		return nimbus.Errorf(nimbus.CodeInvalid, "the server has lines up to %d, it had acknowledged %d", seq, acked)
	}
	if err := t.wal.Acknowledge(seq); err != nil {
		return fmt.Errorf("free shipped lines: %w", err)
	}
	return nil
}

// awaitShipped waits until the server has every line, or wants no more. It
// returns false when ctx ended first: then the next agent goes on.
func (t *attempt) awaitShipped(ctx context.Context, total int64, ended <-chan struct{}) bool {
	for {
		changed := t.wal.Changed()
		if t.wal.Acked() >= total {
			return true
		}
		select {
		case <-changed:
		case <-ended:
			return ctx.Err() == nil
		case <-ctx.Done():
			return false
		}
	}
}
