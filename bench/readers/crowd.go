package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// endpoint is where a log is followed.
type endpoint struct{ address, path, token string }

const (
	// joinsAtOnce bounds how many readers connect at a time: the queue of those that
	// are not yet accepted is short.
	joinsAtOnce = 64
	// Who is slow takes so much at a time, if anything, and so often.
	sip      = 512
	sipPause = 250 * time.Millisecond
	// slowBuffer is what the kernel holds for one of them, more or less.
	slowBuffer = 4 << 10
)

// crowd are the readers of one log.
type crowd struct {
	lines int
	at    []atomic.Int64 // when each line was about to be appended, by its number

	mu    sync.Mutex
	took  []time.Duration // of all lines to all readers
	conns []net.Conn

	reading errgroup.Group // those who are not slow
	slow    sync.WaitGroup
}

func newCrowd(lines int) *crowd { return &crowd{lines: lines, at: make([]atomic.Int64, lines+1)} }

// join has so many follow a log, and slow ones beside them: half of these sip, the
// others take nothing. It returns once all are there.
func (c *crowd) join(ctx context.Context, where endpoint, readers, slow int) error {
	joins, ctx := errgroup.WithContext(ctx)
	joins.SetLimit(joinsAtOnce)
	for i := range slow {
		joins.Go(func() error {
			in, err := c.connect(ctx, where, slowBuffer)
			if err == nil && i%2 == 0 {
				c.slow.Go(func() { dawdle(in) })
			}
			return err
		})
	}
	for range readers {
		joins.Go(func() error {
			in, err := c.connect(ctx, where, 0)
			if err == nil {
				c.reading.Go(func() error { return c.read(in) })
			}
			return err
		})
	}
	return joins.Wait()
}

// connect follows a log. It returns once the server has answered.
func (c *crowd) connect(ctx context.Context, where endpoint, buffer int) (*bufio.Reader, error) {
	conn, err := (&net.Dialer{Timeout: time.Minute}).DialContext(ctx, "tcp", where.address)
	if err != nil {
		return nil, fmt.Errorf("connect a reader: %w", err)
	}
	c.mu.Lock()
	c.conns = append(c.conns, conn)
	c.mu.Unlock()
	if tcp, ok := conn.(*net.TCPConn); ok && buffer > 0 {
		if err := tcp.SetReadBuffer(buffer); err != nil {
			return nil, fmt.Errorf("bound what is held for a slow reader: %w", err)
		}
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+where.address+where.path, nil)
	if err != nil {
		return nil, fmt.Errorf("make a request: %w", err)
	}
	r.Header.Set("Authorization", "Bearer "+where.token)
	if err := r.Write(conn); err != nil {
		return nil, fmt.Errorf("ask for a log: %w", err)
	}
	answer, err := http.ReadResponse(bufio.NewReaderSize(conn, 16<<10), r) //nolint:bodyclose // it is read to the end of its connection
	if err != nil {
		return nil, fmt.Errorf("follow a log: %w", err)
	}
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("follow a log: %s", answer.Status)
	}
	return bufio.NewReaderSize(answer.Body, 16<<10), nil
}

// read takes lines until all are there: each has to follow the one before.
func (c *crowd) read(in *bufio.Reader) error {
	took := make([]time.Duration, 0, c.lines)
	for len(took) < c.lines {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return fmt.Errorf("a reader has %d of %d lines: %w", len(took), c.lines, err)
		}
		id, ok := bytes.CutPrefix(line, []byte("id: "))
		if !ok {
			continue
		}
		seq, err := strconv.Atoi(string(bytes.TrimSpace(id[bytes.LastIndexByte(id, ':')+1:])))
		if err != nil {
			return fmt.Errorf("read a line's number: %w", err)
		}
		if seq == 0 { // of the attempt, of which nothing is there yet
			continue
		}
		if seq != len(took)+1 {
			return fmt.Errorf("line %d came after line %d", seq, len(took))
		}
		took = append(took, time.Duration(time.Now().UnixNano()-c.at[seq].Load()))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.took = append(c.took, took...)
	return nil
}

// dawdle takes a little now and then, until the connection ends.
func dawdle(in *bufio.Reader) {
	some := make([]byte, sip)
	for {
		if _, err := in.Read(some); err != nil {
			return
		}
		time.Sleep(sipPause)
	}
}

// written says that lines are about to be appended.
func (c *crowd) written(first, n int) {
	now := time.Now().UnixNano()
	for seq := first; seq < first+n; seq++ {
		c.at[seq].Store(now)
	}
}

// seen waits until all lines have reached all who are not slow.
func (c *crowd) seen(ctx context.Context) error {
	end := make(chan error, 1)
	go func() { end <- c.reading.Wait() }()
	select {
	case err := <-end:
		return err
	case <-ctx.Done():
		return fmt.Errorf("not all lines reached all readers: %w", ctx.Err())
	}
}

// leave ends all connections.
func (c *crowd) leave() {
	c.mu.Lock()
	for _, conn := range c.conns {
		_ = conn.Close() // nothing is wanted of it any more
	}
	c.mu.Unlock()
	_ = c.reading.Wait() // seen has told of it
	c.slow.Wait()
}

// percentile is of how long lines took, in ms.
func (c *crowd) percentile(share float64) float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	slices.Sort(c.took)
	return float64(c.took[min(len(c.took)-1, int(share*float64(len(c.took))))].Microseconds()) / 1000
}
