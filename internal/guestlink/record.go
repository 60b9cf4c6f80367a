// Package guestlink is the channel between the host agent and nimbus-guest.
//
// A virtio-serial port is a stream of bytes without connections: when the
// agent restarts, the guest does not see it, and both may stop in the middle
// of a message. So records lie under HTTP/2. Each connection of the host
// begins a new epoch with a fresh nonce; what belongs to an older one is
// dropped, wherever it was cut.
//
//	host                                   guest
//	padding, SYN{nonce}      ─────────▶    ends the epoch before
//	drops until the answer   ◀─────────    SYNACK{nonce}
//	DATA{epoch}              ◀────────▶    DATA{epoch}
//
// The padding is longer than any record: it completes the one that an earlier
// host may have left half written. Sandboxes that offer real connections (a
// unix socket) need none of this and speak HTTP/2 directly.
package guestlink

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// Sizes of a record. A record that claims more is refused.
const (
	headerSize = 16
	nonceSize  = 16
	maxPayload = 32 << 10
)

// magic begins every header; padding is zeros, which it is not.
var magic = [2]byte{'N', 0xb1}

type recordType byte

const (
	typeSyn    recordType = 1
	typeSynAck recordType = 2
	typeData   recordType = 3
)

// nonce names an epoch; its first four bytes are in every header.
type nonce [nonceSize]byte

func (n nonce) short() uint32 { return binary.LittleEndian.Uint32(n[:4]) }

// header is {magic 2, type 1, zero 1, epoch 4, length 4, CRC 4}, little endian.
type header struct {
	kind   recordType
	epoch  uint32
	length uint32
}

func (h header) append(b []byte) []byte {
	at := len(b)
	b = append(b, magic[0], magic[1], byte(h.kind), 0)
	b = binary.LittleEndian.AppendUint32(b, h.epoch)
	b = binary.LittleEndian.AppendUint32(b, h.length)
	return binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b[at:]))
}

// errRecord says that the bytes at hand are no header.
var errRecord = errors.New("guest channel: not a record")

func parseHeader(b []byte) (header, error) {
	h := header{
		kind:   recordType(b[2]),
		epoch:  binary.LittleEndian.Uint32(b[4:]),
		length: binary.LittleEndian.Uint32(b[8:]),
	}
	switch {
	case b[0] != magic[0] || b[1] != magic[1] || b[3] != 0:
		return header{}, errRecord
	case binary.LittleEndian.Uint32(b[12:]) != crc32.ChecksumIEEE(b[:12]):
		return header{}, errRecord
	case h.length > maxPayload:
		return header{}, fmt.Errorf("%w: it claims %d bytes", errRecord, h.length)
	case h.kind == typeSyn || h.kind == typeSynAck:
		if h.length != nonceSize {
			return header{}, errRecord
		}
	case h.kind != typeData:
		return header{}, errRecord
	}
	return h, nil
}

// handshake is a SYN or SYNACK as it lies in the stream.
func handshake(kind recordType, n nonce) []byte {
	return append(header{kind: kind, epoch: n.short(), length: nonceSize}.append(nil), n[:]...)
}

// reader reads records. On what is no record it skips byte by byte until the
// next one when lenient, and fails when not.
type reader struct {
	r       io.Reader
	lenient bool
	head    [headerSize]byte
	have    int // bytes of head that are read
	payload [maxPayload]byte
}

// next returns the next record; its payload is valid until the next call.
func (r *reader) next() (header, []byte, error) {
	for {
		n, err := io.ReadFull(r.r, r.head[r.have:])
		r.have += n
		if err != nil {
			return header{}, nil, err
		}
		h, err := parseHeader(r.head[:])
		if err == nil {
			r.have = 0
			payload := r.payload[:h.length]
			_, err = io.ReadFull(r.r, payload)
			return h, payload, err
		}
		if !r.lenient {
			return header{}, nil, err
		}
		r.skip()
	}
}

// skip drops the first byte of the header, and all up to the next that may
// begin one.
func (r *reader) skip() {
	i := bytes.IndexByte(r.head[1:], magic[0])
	if i < 0 {
		r.have = 0
		return
	}
	r.have = copy(r.head[:], r.head[1+i:])
}
