package logs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// streams numbers the streams in stored records; the order is for ever.
var streams = [...]nimbus.Stream{nimbus.StreamStdout, nimbus.StreamStderr, nimbus.StreamSystem, nimbus.StreamStep}

// errRecord says that bytes are no stored line.
var errRecord = errors.New("stored line is malformed")

// grouped, in the byte of the stream, says that a group follows the step. Logs of
// before groups were counted have none.
const grouped = 0x80

// AppendRecord adds a line in the form in which all log files hold it: uvarint
// seq, varint time in µs, byte stream and grouped, uvarint step, uvarint group if
// it is in one, uvarint length, text.
func AppendRecord(b []byte, l nimbus.Line) []byte {
	b = binary.AppendUvarint(b, uint64(l.Seq))
	b = binary.AppendVarint(b, l.At.UnixMicro())
	number := byte(0)
	for i, s := range streams {
		if s == l.Stream {
			number = byte(i)
		}
	}
	if l.Group != 0 {
		number |= grouped
	}
	b = append(b, number)
	b = binary.AppendUvarint(b, uint64(l.Step))
	if l.Group != 0 {
		b = binary.AppendUvarint(b, uint64(l.Group))
	}
	b = binary.AppendUvarint(b, uint64(len(l.Text)))
	return append(b, l.Text...)
}

// DecodeRecord reads one line and returns what follows it.
func DecodeRecord(b []byte) (l nimbus.Line, rest []byte, err error) {
	seq, b, err := uvarint(b)
	if err != nil {
		return l, nil, err
	}
	at, n := binary.Varint(b)
	if n <= 0 || len(b) == n {
		return l, nil, errRecord
	}
	number, inGroup := int(b[n]&^grouped), b[n]&grouped != 0
	b = b[n+1:]
	if number >= len(streams) {
		return l, nil, fmt.Errorf("%w: stream %d", errRecord, number)
	}
	step, b, err := uvarint(b)
	if err != nil {
		return l, nil, err
	}
	var group uint64
	if inGroup {
		if group, b, err = uvarint(b); err != nil {
			return l, nil, err
		}
	}
	length, b, err := uvarint(b)
	if err != nil || length > uint64(len(b)) {
		return l, nil, errRecord
	}
	return nimbus.Line{
		Seq: int64(seq), At: time.UnixMicro(at).UTC(), Stream: streams[number], Step: int32(step), Group: int32(group), Text: string(b[:length]),
	}, b[length:], nil
}

func uvarint(b []byte) (uint64, []byte, error) {
	v, n := binary.Uvarint(b)
	if n <= 0 {
		return 0, nil, errRecord
	}
	return v, b[n:], nil
}
