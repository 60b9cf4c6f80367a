package client

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"github.com/nimbus-ci/nimbus"
)

// maxEventBytes is the longest line of an event stream: a line of a log, which
// JSON escapes at most sixfold, and what is around it. A longer one breaks the
// stream.
const maxEventBytes = 6*nimbus.MaxLineBytes + 4<<10

// event is one server-sent event.
type event struct {
	id, name string
	data     []byte
}

// eventReader reads an event stream (WHATWG HTML, 9.2).
type eventReader struct {
	lines *bufio.Scanner
	alive func() // called for whatever was received
}

func newEventReader(r io.Reader, alive func()) *eventReader {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 8<<10), maxEventBytes)
	return &eventReader{lines: lines, alive: alive}
}

// next returns the next event. An event that was cut off is not returned.
func (r *eventReader) next() (event, error) {
	var e event
	for r.lines.Scan() {
		r.alive()
		line := r.lines.Bytes()
		if len(line) == 0 {
			if e.name != "" || e.data != nil {
				return e, nil
			}
			continue
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "id":
			e.id = string(value)
		case "event":
			e.name = string(value)
		case "data":
			if len(e.data)+len(value) > maxEventBytes {
				return event{}, errors.New("an event is too long")
			}
			if e.data != nil {
				e.data = append(e.data, '\n')
			}
			e.data = append(e.data, value...)
		}
	}
	if err := r.lines.Err(); err != nil {
		return event{}, err
	}
	return event{}, io.ErrUnexpectedEOF
}
