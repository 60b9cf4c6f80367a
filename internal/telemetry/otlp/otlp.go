// Package otlp reads what jobs tell by OTLP over HTTP. It is the job's word: bodies,
// what they unpack to, how many messages they hold and how deep, and the length of
// each value have bounds, and whose it is the host says.
package otlp

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"

	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/nimbus-ci/nimbus"
)

// Bounds of one request.
const (
	MaxBody     = 4 << 20 // as it was sent
	maxUnpacked = 8 << 20
	maxMessages = nimbus.MaxTelemetryItems // in it: each takes some hundred bytes of memory, and as little as two of a body
	maxDepth    = 48                       // of messages in messages
	// maxResources is how many there are, each of which is stamped: so that what was
	// taken can be opened again, by who believes a host no more than a job.
	maxResources = 1000
	maxValue     = 64 << 10 // of a text; what is longer is cut
	maxKeyed     = 256      // attributes of one thing
)

// Request is one request to a receiver, as it came.
type Request struct {
	Signal      nimbus.Signal
	ContentType string
	Encoding    string // of the content: "", "identity" or "gzip"
	Body        []byte
}

// RefusalError is why a request is not taken, as its sender is told by HTTP.
type RefusalError struct {
	Status  int
	Message string
}

func (r *RefusalError) Error() string { return fmt.Sprintf("%d: %s", r.Status, r.Message) }

func refuse(status int, format string, args ...any) error {
	return &RefusalError{status, fmt.Sprintf(format, args...)}
}

// Batch is what a request holds.
type Batch struct {
	Signal nimbus.Signal
	// Rejected is how many of its items are not in it, and Why.
	Rejected int64
	Why      string
	data     proto.Message // TracesData, LogsData or MetricsData, which have the form of a request
	// Of a batch that was opened: what it unpacked to.
	unpacked, messages int
}

func newBatch(s nimbus.Signal) (*Batch, error) {
	b := &Batch{Signal: s}
	switch s {
	case nimbus.SignalTraces:
		b.data = &tracepb.TracesData{}
	case nimbus.SignalLogs:
		b.data = &logspb.LogsData{}
	case nimbus.SignalMetrics:
		b.data = &metricspb.MetricsData{}
	default:
		return nil, refuse(http.StatusNotFound, "there are /v1/traces, /v1/logs and /v1/metrics")
	}
	return b, nil
}

// Decode reads a request. Its error is a *RefusalError.
func Decode(r Request) (*Batch, error) {
	b, err := newBatch(r.Signal)
	if err != nil {
		return nil, err
	}
	media, _, err := mime.ParseMediaType(r.ContentType)
	if err != nil {
		return nil, refuse(http.StatusUnsupportedMediaType, "the content type is missing or not valid: application/x-protobuf and application/json are taken")
	}
	body, err := unpack(r)
	if err != nil {
		return nil, err
	}
	switch media {
	case "application/json":
		err = b.decodeJSON(body)
	case "application/x-protobuf":
		err = b.decodeBinary(body)
	default:
		err = refuse(http.StatusUnsupportedMediaType, "content of type %.80q is not taken: application/x-protobuf and application/json are", media)
	}
	if err != nil {
		return nil, err
	}
	if n := b.countResources(); n > maxResources {
		return nil, refuse(http.StatusRequestEntityTooLarge, "the body holds %d resources, more than %d: send smaller batches", n, maxResources)
	}
	b.check()
	return b, nil
}

func unpack(r Request) ([]byte, error) {
	if len(r.Body) > MaxBody {
		return nil, refuse(http.StatusRequestEntityTooLarge, "the body has %d bytes, more than %d: send smaller batches", len(r.Body), MaxBody)
	}
	switch r.Encoding {
	case "", "identity":
		return r.Body, nil
	case "gzip":
	default:
		return nil, refuse(http.StatusUnsupportedMediaType, "content encoding %.80q is not taken: gzip is", r.Encoding)
	}
	z, err := gzip.NewReader(bytes.NewReader(r.Body))
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "the body is not gzip: %v", err)
	}
	body, err := io.ReadAll(io.LimitReader(z, maxUnpacked+1))
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "the body is not whole gzip: %v", err)
	}
	if len(body) > maxUnpacked {
		return nil, refuse(http.StatusRequestEntityTooLarge, "the body unpacks to more than %d bytes: send smaller batches", maxUnpacked)
	}
	return body, nil
}

func (b *Batch) decodeBinary(body []byte) error {
	return b.unmarshal(body, maxMessages)
}

// unmarshal reads a body of at most so many messages.
func (b *Batch) unmarshal(body []byte, most int) (err error) {
	if b.messages, err = weigh(body, b.data.ProtoReflect().Descriptor(), most); err != nil {
		return err
	}
	if err := (proto.UnmarshalOptions{RecursionLimit: maxDepth + 1, DiscardUnknown: true}).Unmarshal(body, b.data); err != nil {
		return refuse(http.StatusBadRequest, "the body is no OTLP of %s: %v", b.Signal, err)
	}
	return nil
}

func (b *Batch) decodeJSON(body []byte) error {
	body, err := idsToBase64(body)
	if err != nil {
		return err
	}
	// A value in JSON is at most two levels deeper than its message: none is let in
	// that could not be kept.
	if err := (protojson.UnmarshalOptions{RecursionLimit: maxDepth + 1, DiscardUnknown: true}).Unmarshal(body, b.data); err != nil {
		return refuse(http.StatusBadRequest, "the body is no OTLP/JSON of %s: %v", b.Signal, err)
	}
	return nil
}

// AsRefusal is what a sender is told of an error.
func AsRefusal(err error) *RefusalError {
	var r *RefusalError
	if errors.As(err, &r) {
		return r
	}
	return &RefusalError{http.StatusServiceUnavailable, "it can't be kept now"}
}
