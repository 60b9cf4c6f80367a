package shim

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Files in a shim's directory.
const (
	specFile   = "shim.json"
	socketFile = "shim.sock"
	exitFile   = "exit.json"
	logFile    = "shim.log"
	outputFile = "output"
	// refusedFile says that no shim is to start here any more.
	refusedFile = "refused"
)

// callTimeout bounds every call to a shim but Wait: it answers from memory.
const callTimeout = 5 * time.Second

// Client talks to the shim of one directory. It holds nothing open: each call
// is a connection of its own, so it is safe for concurrent use and survives
// the shim, whose exit it finds in a file.
type Client struct {
	dir string

	mu    sync.Mutex
	meter *meter // nil until it is asked
}

// Start starts the shim program bin in dir, which exists and is the shim's
// alone, and returns once its first process runs. The shim outlives the
// caller: it is in a session of its own and not its child. What it started
// before an error, it has ended.
func Start(ctx context.Context, bin, dir string, s Spec) (*Client, error) {
	if ctx.Err() != nil {
		return nil, fmt.Errorf("start shim: %w", context.Cause(ctx))
	}
	raw, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode shim's spec: %w", err)
	}
	if err := os.Remove(filepath.Join(dir, refusedFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("clear shim's folder: %w", err)
	}
	// The environment in it may hold secrets.
	spec, err := writeSpec(dir, raw)
	if err != nil {
		return nil, err
	}
	defer spec.Close()
	// The launcher detaches the shim and ends once that is up, which takes
	// milliseconds: one that is broken off leaves a shim that nobody knows.
	launching, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTimeout+callTimeout)
	defer cancel()
	cmd := exec.CommandContext(launching, bin, dir)
	cmd.Env, cmd.Stdin = []string{}, spec
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	c := &Client{dir: dir}
	if err := cmd.Run(); err != nil {
		return nil, errors.Join(fmt.Errorf("start shim: %w: %s", err, strings.TrimSpace(stderr.String())), c.end(launching))
	}
	if ctx.Err() != nil {
		return nil, errors.Join(fmt.Errorf("start shim: %w", context.Cause(ctx)), c.end(launching))
	}
	return c, nil
}

// writeSpec leaves the spec in a folder, and opens it. It is a file that was not
// there before: by that a shim tells whether it is the one that is meant.
func writeSpec(dir string, raw []byte) (*os.File, error) {
	path := filepath.Join(dir, specFile)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("write shim's spec: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("write shim's spec: %w", err)
	}
	if _, err := f.Write(raw); err != nil {
		return nil, errors.Join(fmt.Errorf("write shim's spec: %w", err), f.Close())
	}
	return f, nil
}

// end kills what there is, and waits for its end.
func (c *Client) end(ctx context.Context) error {
	if err := c.Kill(ctx); err != nil {
		return err
	}
	_, err := c.Wait(ctx)
	return err
}

// Open returns the client of a shim that was started in dir before, whether it
// still runs or not; fs.ErrNotExist when none ever was.
func Open(dir string) (*Client, error) {
	if _, err := os.Stat(filepath.Join(dir, specFile)); err != nil {
		return nil, fmt.Errorf("open shim: %w", err)
	}
	return &Client{dir: dir}, nil
}

// Renew moves the deadline to d from now.
func (c *Client) Renew(ctx context.Context, d time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := c.call(ctx, request{Op: opRenew, DeadlineMS: d.Milliseconds()})
	return err
}

// Kill ends the whole tree. It returns nil when there is nothing left to kill,
// and nothing will be: a shim may be on its way that an agent launched which was
// killed itself.
func (c *Client) Kill(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := c.call(ctx, request{Op: opKill})
	if !errors.Is(err, ErrGone) {
		return err
	}
	if err := os.WriteFile(filepath.Join(c.dir, refusedFile), nil, 0o600); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("refuse a shim that is on its way: %w", err)
	}
	// One that listened just before has not seen it.
	if _, err := c.call(ctx, request{Op: opKill}); err != nil && !errors.Is(err, ErrGone) {
		return err
	}
	return nil
}

// PID is the process id of the first process, as the host sees it.
func (c *Client) PID(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := c.call(ctx, request{Op: opStatus})
	return answer.PID, err
}

// Come returns the process id of a first process that somebody else starts, once
// it has come. ErrGone says that it will not.
func (c *Client) Come(ctx context.Context) (int, error) {
	answer, err := c.call(ctx, request{Op: opCome})
	return answer.PID, err
}

// Wait returns how the tree ended, once it has.
func (c *Client) Wait(ctx context.Context) (Exit, error) {
	for {
		answer, err := c.call(ctx, request{Op: opWait})
		if ctx.Err() != nil {
			return Exit{}, ctx.Err()
		}
		if err == nil && answer.Exit != nil {
			return *answer.Exit, nil
		}
		// It is gone, or ended while it answered: the file has it.
		exit, err := c.readExit()
		if !errors.Is(err, fs.ErrNotExist) {
			return exit, err
		}
		if !c.alive(ctx) {
			// It may have written the file between the two looks.
			if exit, err := c.readExit(); !errors.Is(err, fs.ErrNotExist) {
				return exit, err
			}
			return Exit{Cause: CauseUnknown, Code: -1}, nil
		}
	}
}

// ErrGone says that the shim does not run any more (or never did).
var ErrGone = errors.New("shim is gone")

func (c *Client) alive(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := c.call(ctx, request{Op: opStatus})
	return err == nil
}

func (c *Client) readExit() (Exit, error) {
	raw, err := os.ReadFile(filepath.Join(c.dir, exitFile))
	if err != nil {
		return Exit{}, fmt.Errorf("read exit: %w", err)
	}
	var e Exit
	if err := json.Unmarshal(raw, &e); err != nil {
		return Exit{}, fmt.Errorf("decode exit: %w", err)
	}
	return e, nil
}

// Output returns the end of what the first process wrote, at most n bytes.
func (c *Client) Output(n int64) []byte { return tail(filepath.Join(c.dir, outputFile), n) }

// Log returns the end of the shim's own log, at most n bytes.
func (c *Client) Log(n int64) []byte { return tail(filepath.Join(c.dir, logFile), n) }

// tail is for messages alone: what can't be read is left out.
func tail(path string, n int64) []byte {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	if size, err := f.Seek(0, io.SeekEnd); err != nil || size > n {
		if _, err := f.Seek(-n, io.SeekEnd); err != nil {
			return nil
		}
	} else if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil
	}
	raw, err := io.ReadAll(io.LimitReader(f, n))
	if err != nil {
		return nil
	}
	return raw
}

// call sends one request and reads one answer.
func (c *Client) call(ctx context.Context, r request) (response, error) {
	conn, err := dial(ctx, c.dir)
	if err != nil {
		return response{}, fmt.Errorf("%w: %w", ErrGone, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := json.NewEncoder(conn).Encode(r); err != nil {
		return response{}, fmt.Errorf("%w: %w", ErrGone, err)
	}
	line, err := bufio.NewReaderSize(io.LimitReader(conn, maxMessage), maxMessage).ReadBytes('\n')
	if err != nil {
		return response{}, fmt.Errorf("%w: %w", ErrGone, err)
	}
	var answer response
	if err := json.Unmarshal(line, &answer); err != nil {
		return response{}, fmt.Errorf("decode shim's answer: %w", err)
	}
	if answer.Gone {
		return answer, ErrGone
	}
	if answer.Error != "" {
		return answer, fmt.Errorf("shim: %s", answer.Error)
	}
	return answer, nil
}

// dial reaches a socket whose path may be longer than a socket's path can be.
func dial(ctx context.Context, dir string) (net.Conn, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open shim's folder: %w", err)
	}
	defer d.Close()
	var dialer net.Dialer
	return dialer.DialContext(ctx, "unix", filepath.Join("/proc/self/fd", strconv.Itoa(int(d.Fd())), socketFile))
}
