package shells

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/bus"
)

// Received is what one call brings.
type Received struct {
	Bodies [][]byte
	Seq    int64            // of the last of them
	End    *nimbus.ShellEnd // nothing follows
}

// Send passes a batch of who opened a shell to it. Codes: not_found, conflict,
// too_large, rate_limited while there is no room.
func (s *Service) Send(ctx context.Context, p nimbus.Principal, orgID, shellID string, seq int64, body []byte) error {
	return s.put(ctx, ToShell, seq, body, func(ctx context.Context) (Standing, error) { return s.ofUser(ctx, p, orgID, shellID) })
}

// Receive waits for what comes of a shell after a batch.
func (s *Service) Receive(ctx context.Context, p nimbus.Principal, orgID, shellID string, after int64, wait time.Duration) (Received, error) {
	return s.take(ctx, FromShell, after, wait, func(ctx context.Context) (Standing, error) { return s.ofUser(ctx, p, orgID, shellID) })
}

// Close ends a shell of who calls.
func (s *Service) Close(ctx context.Context, p nimbus.Principal, orgID, shellID string) error {
	st, err := s.ofUser(ctx, p, orgID, shellID)
	if err != nil || st.State == nimbus.ShellEnded {
		return err
	}
	return s.end(ctx, st.ID, nimbus.ShellEnd{Reason: nimbus.ShellClosed, Message: "it was closed"}, p.Actor())
}

// Attach takes a shell for the host of its job. Codes: not_found, fenced,
// conflict for one that has ended.
func (s *Service) Attach(ctx context.Context, hostID string, l nimbus.Lease, shellID string) (nimbus.ShellSpec, error) {
	st, err := s.ofHost(ctx, hostID, l, shellID)
	if err != nil {
		return nimbus.ShellSpec{}, err
	}
	if st.State == nimbus.ShellEnded {
		return nimbus.ShellSpec{}, hasEnded(st)
	}
	return st.Spec, s.cfg.Store.AttachShell(ctx, st.ID)
}

// Output is a batch that comes of a shell, with what is recorded of it.
type Output struct {
	Seq      int64
	Body     []byte
	Recorded []nimbus.Line
	End      *nimbus.ShellEnd // this is the last one
}

// SendOutput passes a batch of a shell to who opened it.
func (s *Service) SendOutput(ctx context.Context, hostID string, l nimbus.Lease, shellID string, o Output) error {
	st, err := s.ofHost(ctx, hostID, l, shellID)
	if err != nil {
		return err
	}
	if err := s.record(ctx, st, o.Recorded); err != nil { // first: what is shown was recorded
		return err
	}
	if len(o.Body) > 0 {
		err := s.put(ctx, FromShell, o.Seq, o.Body, func(ctx context.Context) (Standing, error) { return s.ofHost(ctx, hostID, l, shellID) })
		if err != nil {
			return err
		}
	}
	if o.End == nil || st.State == nimbus.ShellEnded {
		return nil
	}
	return s.end(ctx, st.ID, *o.End, "host:"+hostID)
}

// ReceiveInput waits for what comes for a shell after a batch.
func (s *Service) ReceiveInput(ctx context.Context, hostID string, l nimbus.Lease, shellID string, after int64, wait time.Duration) (Received, error) {
	return s.take(ctx, ToShell, after, wait, func(ctx context.Context) (Standing, error) { return s.ofHost(ctx, hostID, l, shellID) })
}

// record keeps lines of a recording; those that are kept already are ignored.
func (s *Service) record(ctx context.Context, st Standing, lines []nimbus.Line) error {
	if len(lines) == 0 {
		return nil
	}
	acked, err := s.cfg.Logs.Append(ctx, st.RecordingKey(), lines)
	if err != nil {
		return fmt.Errorf("keep a recording: %w", err)
	}
	if acked <= st.RecordedLines {
		return nil
	}
	return s.cfg.Store.RecordShell(ctx, st.ID, acked)
}

func sealedAs(id string, side Side, seq int64) string {
	return fmt.Sprintf("shell/%s/%s/%d", id, side, seq)
}

func hasEnded(st Standing) error {
	return nimbus.Errorf(nimbus.CodeConflict, "the shell has ended: %s", st.End.Message)
}

// put keeps a batch once there is room for it. One that is kept already is
// fine: its answer was lost.
func (s *Service) put(ctx context.Context, side Side, seq int64, body []byte, find func(context.Context) (Standing, error)) error {
	if len(body) > MaxBatch {
		return nimbus.Errorf(nimbus.CodeTooLarge, "a batch has at most %d bytes", MaxBatch)
	}
	full := time.NewTimer(roomWait)
	defer full.Stop()
	var sub *bus.Subscription
	for {
		st, err := find(ctx)
		if err != nil {
			return err
		}
		switch {
		case seq >= 1 && seq <= st.Sent[side]:
			return nil
		case st.State == nimbus.ShellEnded:
			return hasEnded(st)
		case seq != st.Sent[side]+1:
			return nimbus.Errorf(nimbus.CodeConflict, "batch %d does not follow batch %d", seq, st.Sent[side])
		case st.Bytes[side] < roomBytes:
			sealed, err := s.cfg.Sealer.Seal(st.OrgID, sealedAs(st.ID, side, seq), body)
			if err != nil {
				return err
			}
			if err := s.cfg.Store.PutBatch(ctx, st.ID, side, seq, sealed); err != nil {
				return err
			}
			s.wake(ctx, st.ID)
			return nil
		}
		if sub == nil {
			sub = s.cfg.Bus.Subscribe(bus.ShellTopic(st.ID))
			defer sub.Close()
			continue // what was freed before was not heard of
		}
		again := time.NewTimer(s.cfg.Look)
		select {
		case <-sub.C:
		case <-again.C:
		case <-full.C:
			again.Stop()
			return &nimbus.Error{Code: nimbus.CodeRateLimited, Message: "the other side takes nothing now", RetryAfter: time.Second}
		case <-ctx.Done():
			again.Stop()
			return ctx.Err()
		}
		again.Stop()
	}
}

// take frees what was received, and waits for what follows.
func (s *Service) take(ctx context.Context, side Side, after int64, wait time.Duration, find func(context.Context) (Standing, error)) (Received, error) {
	st, err := find(ctx)
	if err != nil {
		return Received{}, err
	}
	shellID := st.ID
	defer func() { // whatever was done just then
		if ctx.Err() != nil {
			s.hungUp(ctx, shellID, side)
		}
	}()
	if err := s.received(ctx, st, side, after); err != nil {
		return Received{}, err
	}
	sub := s.cfg.Bus.Subscribe(bus.ShellTopic(st.ID))
	defer sub.Close()
	over := time.NewTimer(min(max(wait, 0), MaxWait))
	defer over.Stop()
	for last := false; ; {
		if st, err = find(ctx); err != nil { // before its batches: none comes after the end
			return Received{}, err
		}
		if st.Sent[side] > after {
			r, err := s.page(ctx, st, side, after)
			if err != nil || len(r.Bodies) > 0 {
				return r, err
			}
		}
		if st.State == nimbus.ShellEnded {
			return Received{Seq: after, End: &st.End}, nil
		}
		if last {
			return Received{Seq: after}, nil
		}
		again := time.NewTimer(s.cfg.Look)
		select {
		case <-sub.C:
		case <-again.C:
		case <-over.C:
			last = true
		case <-ctx.Done():
			again.Stop()
			return Received{}, ctx.Err()
		}
		again.Stop()
	}
}

// received frees what was received, and notes that who received it is there.
func (s *Service) received(ctx context.Context, st Standing, side Side, after int64) error {
	if after > 0 && st.Bytes[side] > 0 {
		if err := s.cfg.Store.FreeBatches(ctx, st.ID, side, after); err != nil {
			return err
		}
		s.wake(ctx, st.ID) // whoever waits for room
	}
	seen := st.UserSeenAt
	if side == ToShell {
		seen = st.HostSeenAt
	}
	if st.State == nimbus.ShellEnded || st.Now.Sub(seen) < seenAgain && seen.Before(st.Now.Add(time.Second)) {
		return nil
	}
	return s.cfg.Store.SeeShell(ctx, st.ID, side, 0)
}

// hungUp has a shell end soon whose user broke the connection off, unless it
// broke because this server stops.
func (s *Service) hungUp(ctx context.Context, shellID string, side Side) {
	if _, ours := errors.AsType[*nimbus.Error](context.Cause(ctx)); ours || side != FromShell {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endedTimeout)
	defer cancel()
	if err := s.cfg.Store.SeeShell(ctx, shellID, side, goneAfter-hungUpGrace); err != nil {
		s.cfg.Log.DebugContext(ctx, "note that a user hung up", "shell", shellID, "error", err)
	}
}

// page opens what follows a batch.
func (s *Service) page(ctx context.Context, st Standing, side Side, after int64) (Received, error) {
	batches, err := s.cfg.Store.Batches(ctx, st.ID, side, after)
	if err != nil {
		return Received{}, err
	}
	r := Received{Seq: after}
	size := 0
	for _, b := range batches {
		if b.Seq != r.Seq+1 {
			return r, fmt.Errorf("batch %d of shell %s follows batch %d", b.Seq, st.ID, r.Seq)
		}
		body, err := s.cfg.Sealer.Open(st.OrgID, sealedAs(st.ID, side, b.Seq), b.Body)
		if err != nil {
			return r, err
		}
		r.Bodies, r.Seq = append(r.Bodies, body), b.Seq
		if size += len(body); size >= pageBytes {
			break
		}
	}
	return r, nil
}
