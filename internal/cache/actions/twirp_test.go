package actions

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/nimbus-ci/nimbus"
	resultsv1 "github.com/nimbus-ci/nimbus/api/gen/results/v1"
)

// TestWhatClientsWrite: the number is text from one and a number from another;
// fields that are not known are passed over.
func TestWhatClientsWrite(t *testing.T) {
	t.Parallel()
	want := &resultsv1.FinalizeCacheEntryUploadRequest{Key: "k", Version: "v", SizeBytes: 12}
	wire, err := proto.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	for text, c := range map[string]codec{
		`{"key":"k","version":"v","size_bytes":"12"}`:                   inJSON,
		`{"key":"k","version":"v","size_bytes":12}`:                     inJSON,
		`{"key":"k","version":"v","sizeBytes":"12","new":{"field":[]}}`: inJSON,
		string(wire):                   inProtobuf,
		string(wire) + "\xa2\x06\x01x": inProtobuf,
	} {
		got := &resultsv1.FinalizeCacheEntryUploadRequest{}
		if err := c.unmarshal([]byte(text), got); err != nil || !proto.Equal(got, want) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

// TestWhatClientsRead: they look for these names, and one of them fails where a
// number of 64 bits is no text.
func TestWhatClientsRead(t *testing.T) {
	t.Parallel()
	for want, m := range map[string]proto.Message{
		`{"ok":true,"entry_id":"12","message":""}`:                       &resultsv1.FinalizeCacheEntryUploadResponse{Ok: true, EntryId: 12},
		`{"ok":false,"signed_upload_url":"","message":"no"}`:             &resultsv1.CreateCacheEntryResponse{Message: "no"},
		`{"ok":true,"signed_download_url":"http://x","matched_key":"k"}`: &resultsv1.GetCacheEntryDownloadURLResponse{Ok: true, SignedDownloadUrl: "http://x", MatchedKey: "k"},
	} {
		got, err := inJSON.marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if strings.ReplaceAll(string(got), " ", "") != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestCodecs(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"application/json": "application/json", "application/json; charset=utf-8": "application/json", "application/protobuf": "application/protobuf",
		"": "", "text/plain": "", "application/json;;": "",
	} {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		r.Header.Set("Content-Type", text)
		if c, err := codecOf(r); c.contentType != want || (err != nil) != (want == "") || err != nil && nimbus.ErrorCode(err) != nimbus.CodeInvalid {
			t.Errorf("%q: %q, %v", text, c.contentType, err)
		}
	}
}

// FuzzCall: no body makes a codec fail otherwise than by its error, and what was
// read is written and read again as the same.
func FuzzCall(f *testing.F) {
	f.Add([]byte(`{"key":"k","version":"v","restore_keys":["a","b"],"metadata":{"repository_id":"1","scope":[{"scope":"s","permission":"3"}]}}`), true)
	f.Add([]byte(`{"key":"\ud800","version":null}`), true)
	f.Add([]byte("\x12\x01k\x1a\x01a\x22\x01v"), false)
	f.Fuzz(func(t *testing.T, body []byte, text bool) {
		c := inProtobuf
		if text {
			c = inJSON
		}
		var q, again resultsv1.GetCacheEntryDownloadURLRequest
		if c.unmarshal(body, &q) != nil {
			return
		}
		if text && !json.Valid(body) {
			t.Fatalf("%q is no JSON, and read as %v", body, &q)
		}
		written, err := c.marshal(&q)
		if err != nil {
			t.Fatalf("%v can't be written: %v", &q, err)
		}
		if err := c.unmarshal(written, &again); err != nil || !proto.Equal(&q, &again) {
			t.Fatalf("%v comes back as %v, %v", &q, &again, err)
		}
	})
}
