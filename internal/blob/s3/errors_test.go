package s3

import (
	"errors"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"

	"github.com/nimbus-ci/nimbus"
)

// TestOutagesNameNoAddress: what a caller may read of an outage says nothing of
// where things are; the log has that.
func TestOutagesNameNoAddress(t *testing.T) {
	t.Parallel()
	for _, cause := range []error{
		errors.New(`Get "http://10.1.2.3:9000/bucket/secret-key": dial tcp 10.1.2.3:9000: connect: connection refused`),
		minio.ErrorResponse{StatusCode: 503, Code: "SlowDown", Message: "10.1.2.3:9000 is busy"},
		minio.ErrorResponse{StatusCode: 403, Code: "AccessDenied", Message: "not to 10.1.2.3:9000"},
		minio.ErrorResponse{StatusCode: 404, Code: minio.NoSuchBucket, Message: "10.1.2.3:9000 has none"},
	} {
		err := told(t.Context(), "open secret-key", cause)
		var own *nimbus.Error
		if !errors.As(err, &own) || own.Code != nimbus.CodeUnavailable {
			t.Fatalf("%v becomes %v", cause, err)
		}
		if strings.Contains(own.Message+own.Hint, "10.1.2.3") || strings.Contains(own.Message+own.Hint, "secret-key") {
			t.Errorf("a caller reads %q (%s)", own.Message, own.Hint)
		}
		if !strings.Contains(err.Error(), "10.1.2.3") || !strings.HasPrefix(err.Error(), "open secret-key: ") {
			t.Errorf("the log has %q", err)
		}
	}
}
