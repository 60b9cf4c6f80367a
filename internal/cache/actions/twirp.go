package actions

import (
	"mime"
	"net/http"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/nimbus-ci/nimbus"
	resultsv1 "github.com/nimbus-ci/nimbus/api/gen/results/v1"
	"github.com/nimbus-ci/nimbus/internal/transfer"
)

// maxCall is how long a call may be: ten keys of 512 characters, in any spelling.
const maxCall = 64 << 10

// codec is how the messages of a call are written.
type codec struct {
	contentType string
	unmarshal   func([]byte, proto.Message) error
	marshal     func(proto.Message) ([]byte, error)
}

// JSON has GitHub's names, and what is zero too: clients look for `ok`. Numbers
// of 64 bits are text, without which go-actions-cache fails; both are read.
var (
	inJSON = codec{
		"application/json",
		protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal,
		protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal,
	}
	inProtobuf = codec{"application/protobuf", proto.UnmarshalOptions{DiscardUnknown: true}.Unmarshal, proto.MarshalOptions{}.Marshal}
)

func codecOf(r *http.Request) (codec, error) {
	contentType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err == nil {
		switch contentType {
		case inJSON.contentType:
			return inJSON, nil
		case inProtobuf.contentType:
			return inProtobuf, nil
		}
	}
	return codec{}, nimbus.Errorf(nimbus.CodeInvalid, "calls are application/json or application/protobuf, not %.100q", r.Header.Get("Content-Type"))
}

// message is a message of type T, which is made empty.
type message[T any] interface {
	*T
	proto.Message
}

// twirp is the handler of a method, which may say more by headers.
func twirp[Q, S any, QM message[Q], SM message[S]](h *handler, call func(*handler, http.Header, *http.Request, Grant, QM) (SM, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var request Q
		c, g, err := h.readCall(w, r, QM(&request))
		var response SM
		if err == nil {
			response, err = call(h, w.Header(), r, g, QM(&request))
		}
		var body []byte
		if err == nil {
			body, err = c.marshal(response)
		}
		if err != nil {
			h.reply(w, r, err, writeTwirpError)
			return
		}
		writeBody(w, http.StatusOK, c.contentType, body)
	})
}

// readCall reads who calls, and what for.
func (h *handler) readCall(w http.ResponseWriter, r *http.Request, request proto.Message) (codec, Grant, error) {
	g, err := h.grant(r)
	if err != nil {
		return codec{}, g, err
	}
	c, err := codecOf(r)
	if err != nil {
		return c, g, err
	}
	body, err := h.bounds().ReadSmall(w, r, maxCall)
	if err != nil {
		return c, g, err
	}
	if err := c.unmarshal(body, request); err != nil {
		return c, g, nimbus.Errorf(nimbus.CodeInvalid, "the call can't be read as %s: %w", c.contentType, err)
	}
	return c, g, nil
}

// refusedSoftly tells whether an error is answered by `ok: false` and a message:
// @actions/cache shows that to its user, and of a status nothing.
func refusedSoftly(err error) bool {
	code := nimbus.ErrorCode(err)
	return code == nimbus.CodeForbidden || code == nimbus.CodeTooLarge
}

func createEntry(h *handler, _ http.Header, r *http.Request, g Grant, q *resultsv1.CreateCacheEntryRequest) (*resultsv1.CreateCacheEntryResponse, error) {
	upload, err := h.Cache.Reserve(r.Context(), g.Caller, q.Key, q.Version, 0)
	if refusedSoftly(err) {
		return &resultsv1.CreateCacheEntryResponse{Message: h.tell(r, err).text}, nil
	}
	if err != nil {
		return nil, err
	}
	url, err := h.sign(r, g, toPut, upload.ID)
	if err != nil {
		return nil, err
	}
	return &resultsv1.CreateCacheEntryResponse{Ok: true, SignedUploadUrl: url}, nil
}

func finalizeUpload(h *handler, header http.Header, r *http.Request, g Grant, q *resultsv1.FinalizeCacheEntryUploadRequest) (*resultsv1.FinalizeCacheEntryUploadResponse, error) {
	if q.SizeBytes < 0 {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "an entry of %d bytes", q.SizeBytes)
	}
	entry, err := h.Cache.Commit(r.Context(), g.Caller, q.Key, q.Version, q.SizeBytes)
	if refusedSoftly(err) || nimbus.ErrorCode(err) == nimbus.CodeInvalid {
		return &resultsv1.FinalizeCacheEntryUploadResponse{Message: h.tell(r, err).text}, nil
	}
	if err != nil {
		return nil, err
	}
	transfer.TellEntry(header, transfer.Entry{OrgID: entry.OrgID, ID: entry.ID, Size: entry.Size, Digest: entry.Digest})
	return &resultsv1.FinalizeCacheEntryUploadResponse{Ok: true, EntryId: entry.ID}, nil
}

func downloadURL(h *handler, _ http.Header, r *http.Request, g Grant, q *resultsv1.GetCacheEntryDownloadURLRequest) (*resultsv1.GetCacheEntryDownloadURLResponse, error) {
	if err := mayLookUp(g); err != nil {
		return nil, err
	}
	entry, ok, err := h.Cache.Find(r.Context(), g.Caller, q.Key, q.RestoreKeys, q.Version)
	if err != nil || !ok {
		return &resultsv1.GetCacheEntryDownloadURLResponse{}, err
	}
	url, err := h.sign(r, g, toGet, entry.ID)
	if err != nil {
		return nil, err
	}
	return &resultsv1.GetCacheEntryDownloadURLResponse{Ok: true, SignedDownloadUrl: url, MatchedKey: entry.Key}, nil
}

// mayLookUp refuses a token that only writes, in the words that clients look for.
func mayLookUp(g Grant) error {
	if len(g.Caller.Read) == 0 {
		return nimbus.Errorf(nimbus.CodeForbidden, "cache read denied: this job may only write")
	}
	return nil
}
