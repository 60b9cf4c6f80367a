package audit

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// maxLine bounds a line of an export.
const maxLine = 1 << 20

// line is an entry or a checkpoint in an export.
type line struct {
	Kind      string              `json:"kind"`
	OrgID     string              `json:"org_id"`
	Seq       int64               `json:"seq"`
	At        time.Time           `json:"at"`
	ID        string              `json:"id,omitempty"`
	Actor     string              `json:"actor,omitempty"`
	Action    string              `json:"action,omitempty"`
	Target    string              `json:"target,omitempty"`
	Outcome   nimbus.AuditOutcome `json:"outcome,omitempty"`
	Detail    map[string]string   `json:"detail,omitempty"`
	Count     int64               `json:"count,omitempty"`
	Prev      *nimbus.AuditHash   `json:"prev,omitempty"`
	PrevSeq   *int64              `json:"prev_seq,omitempty"` // of a checkpoint that tells it
	Hash      nimbus.AuditHash    `json:"hash"`
	Signature string              `json:"signature,omitempty"` // base64
}

// The kinds of line.
const (
	kindEntry      = "entry"
	kindCheckpoint = "checkpoint"
)

// Writer writes an export: a line of JSON for each entry and checkpoint.
type Writer struct{ enc *json.Encoder }

// NewWriter writes to w.
func NewWriter(w io.Writer) *Writer {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return &Writer{enc}
}

// Entry writes an entry.
func (w *Writer) Entry(e nimbus.AuditEntry) error {
	return w.enc.Encode(line{Kind: kindEntry, OrgID: e.OrgID, Seq: e.Seq, At: e.At, ID: e.ID, Actor: e.Actor, Action: e.Action,
		Target: e.Target, Outcome: e.Outcome, Detail: e.Detail, Count: e.Count, Prev: &e.Prev, Hash: e.Hash})
}

// Checkpoint writes a checkpoint.
func (w *Writer) Checkpoint(c nimbus.AuditCheckpoint) error {
	l := line{Kind: kindCheckpoint, OrgID: c.OrgID, Seq: c.Seq, At: c.At, Hash: c.Hash, Signature: base64.StdEncoding.EncodeToString(c.Signature)}
	if c.Prev != nimbus.AuditNoPrev {
		l.PrevSeq = &c.Prev
	}
	return w.enc.Encode(l)
}

// Sink takes a chain in its order.
type Sink interface {
	Entry(e nimbus.AuditEntry) error
	Checkpoint(c nimbus.AuditCheckpoint) error
}

var (
	_ Sink = (*Writer)(nil)
	_ Sink = (*Verifier)(nil)
)

// Read passes an export on. The sink is made for the chain that the first line
// is of. Codes: invalid.
func Read(r io.Reader, sink func(orgID string) Sink) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	var to Sink
	n := 0
	for lines.Scan() {
		n++
		l, err := decode(lines.Bytes())
		if err != nil {
			return nimbus.Errorf(nimbus.CodeInvalid, "line %d is not of an audit export: %w", n, err)
		}
		if to == nil {
			to = sink(l.OrgID)
		}
		if err := l.pass(to); err != nil {
			return err
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return nimbus.Errorf(nimbus.CodeInvalid, "line %d is too long to be of an audit export", n+1)
	}
	if err := lines.Err(); err != nil {
		return nimbus.Errorf(nimbus.CodeInvalid, "the export can't be read: %w", err)
	}
	if to == nil {
		return nimbus.Errorf(nimbus.CodeInvalid, "the export is empty")
	}
	return nil
}

// decode reads a line. What is not known is refused: nothing may stand in an
// export that no hash covers.
func decode(text []byte) (l line, err error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&l); err != nil {
		return l, err
	}
	switch {
	case dec.More():
		return l, errors.New("there is more than one value in it")
	case l.Kind == kindEntry && l.Prev != nil && l.PrevSeq == nil && l.Signature == "":
	case l.Kind == kindCheckpoint && l.Prev == nil && l.ID+l.Actor+l.Action+l.Target+string(l.Outcome) == "" && len(l.Detail) == 0 && l.Count == 0:
	default:
		return l, errors.New("it is neither an entry nor a checkpoint")
	}
	return l, nil
}

// pass gives a line to a sink.
func (l line) pass(to Sink) error {
	if l.Kind == kindEntry {
		return to.Entry(nimbus.AuditEntry{ID: l.ID, Seq: l.Seq, At: l.At, Prev: *l.Prev, Hash: l.Hash, AuditEvent: nimbus.AuditEvent{
			OrgID: l.OrgID, Actor: l.Actor, Action: l.Action, Target: l.Target, Outcome: l.Outcome, Detail: l.Detail, Count: l.Count}})
	}
	signature, err := base64.StdEncoding.DecodeString(l.Signature)
	if err != nil {
		signature = nil // no signature: the verifier says so
	}
	c := nimbus.AuditCheckpoint{OrgID: l.OrgID, Seq: l.Seq, Prev: nimbus.AuditNoPrev, Hash: l.Hash, At: l.At, Signature: signature}
	if l.PrevSeq != nil {
		c.Prev = *l.PrevSeq
	}
	return to.Checkpoint(c)
}
