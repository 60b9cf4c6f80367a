package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus/internal/executor"
)

// qmpSocket is where the monitor takes orders, in the machine's directory.
const qmpSocket = "qmp.sock"

const (
	// qmpTimeout bounds one order with its answer.
	qmpTimeout = 30 * time.Second
	// qmpAnswerBytes bounds an answer: QEMU may be in the guest's hands.
	qmpAnswerBytes = 256 << 10
)

// qmp is one connection to a monitor's socket, which serves one at a time.
type qmp struct {
	conn  *net.UnixConn
	lines *bufio.Scanner
	stop  func() bool
}

// dialQMP connects within ctx, which bounds all that is done over it.
func dialQMP(ctx context.Context, dir string) (*qmp, error) {
	raw, err := executor.DialUnix(ctx, dir, qmpSocket)
	if err != nil {
		return nil, err
	}
	conn, ok := raw.(*net.UnixConn)
	if !ok {
		raw.Close()
		return nil, errors.New("QMP: not a unix socket")
	}
	q := &qmp{conn: conn, lines: bufio.NewScanner(conn), stop: context.AfterFunc(ctx, func() { conn.Close() })}
	q.lines.Buffer(nil, qmpAnswerBytes)
	if !q.lines.Scan() { // it greets
		q.close()
		return nil, q.broken(ctx)
	}
	if err := q.do(ctx, "qmp_capabilities", nil, nil); err != nil {
		q.close()
		return nil, err
	}
	return q, nil
}

func (q *qmp) close() {
	q.stop()
	q.conn.Close()
}

// do gives an order and decodes its answer, unless that is nil.
func (q *qmp) do(ctx context.Context, order string, arguments, answer any) error {
	return q.send(ctx, order, arguments, answer, nil)
}

// pass hands a file over, to be called by name.
func (q *qmp) pass(ctx context.Context, f *os.File, name string) error {
	return q.send(ctx, "getfd", map[string]string{"fdname": name}, nil, unix.UnixRights(int(f.Fd())))
}

func (q *qmp) send(ctx context.Context, order string, arguments, answer any, rights []byte) error {
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{order, arguments})
	if err != nil {
		return fmt.Errorf("QMP %s: %w", order, err)
	}
	if _, _, err := q.conn.WriteMsgUnix(append(line, '\n'), rights, nil); err != nil {
		return fmt.Errorf("QMP %s: %w", order, q.broken(ctx))
	}
	for q.lines.Scan() {
		var message struct {
			Event  string          `json:"event"`
			Return json.RawMessage `json:"return"`
			Error  *struct {
				Desc string `json:"desc"`
			} `json:"error"`
		}
		if err := json.Unmarshal(q.lines.Bytes(), &message); err != nil {
			return fmt.Errorf("QMP %s: %w", order, err)
		}
		switch {
		case message.Error != nil:
			return fmt.Errorf("QMP %s: %s", order, executor.Printable([]byte(message.Error.Desc)))
		case message.Return == nil: // an event
			continue
		case answer == nil:
			return nil
		}
		if err := json.Unmarshal(message.Return, answer); err != nil {
			return fmt.Errorf("QMP %s: %w", order, err)
		}
		return nil
	}
	return fmt.Errorf("QMP %s: %w", order, q.broken(ctx))
}

// broken says why the stream ended.
func (q *qmp) broken(ctx context.Context) error {
	switch err := q.lines.Err(); {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return err
	}
	return io.ErrUnexpectedEOF
}

// order connects, gives one order and hangs up.
func order(ctx context.Context, dir, name string) error {
	ctx, cancel := context.WithTimeout(ctx, qmpTimeout)
	defer cancel()
	q, err := dialQMP(ctx, dir)
	if err != nil {
		return err
	}
	defer q.close()
	return q.do(ctx, name, nil, nil)
}
