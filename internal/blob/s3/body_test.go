package s3

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestABodyIsNotReadAfterItsAnswer, as a transport may that is still sending.
func TestABodyIsNotReadAfterItsAnswer(t *testing.T) {
	t.Parallel()
	for _, step := range []struct {
		read int64 // before the answer
		want error // of a read after it
	}{{3, errAnswered}, {10, io.EOF}} {
		source := strings.NewReader("0123456789")
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://localhost/", io.NopCloser(source))
		if err != nil {
			t.Fatal(err)
		}
		r.ContentLength = 10
		var body io.ReadCloser
		_, err = bodyGuard{roundTrip(func(r *http.Request) (*http.Response, error) {
			body = r.Body
			if _, err := io.CopyN(io.Discard, body, step.read); err != nil {
				t.Error(err)
			}
			return nil, errors.New("refused")
		})}.RoundTrip(r)
		if err == nil || err.Error() != "refused" {
			t.Error(err)
		}
		if n, err := body.Read(make([]byte, 5)); n != 0 || !errors.Is(err, step.want) {
			t.Errorf("after %d bytes and an answer: %d more, %v", step.read, n, err)
		}
		if int64(source.Len()) != 10-step.read {
			t.Errorf("%d bytes are left, want %d", source.Len(), 10-step.read)
		}
		body.Close()
	}
}
