package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/minio/minio-go/v7"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob"
)

// What S3 answers that callers here look for.
var (
	errMissing     = errors.New("no such object")
	errNoSuchRange = errors.New("no such range")
)

// missing makes the error of a blob that isn't there ours.
func missing(key string, err error) error {
	if errors.Is(err, errMissing) {
		return blob.NotFound(key)
	}
	return err
}

// told translates an error of a request at this edge. What isn't the fault of
// this side is unavailable: S3 is away, or does not let us in. ctx is the caller's.
func told(ctx context.Context, doing string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", doing, context.Cause(ctx))
	}
	var own *nimbus.Error
	if errors.As(err, &own) {
		return err
	}
	var answer minio.ErrorResponse
	if !errors.As(err, &answer) || answer.StatusCode == 0 {
		return away(doing, "the object store does not answer", "see whether its endpoint can be reached from here; the same call may work later", err)
	}
	// Its text alone: other fields repeat what was asked.
	said := fmt.Errorf("%d %s: %s", answer.StatusCode, answer.Code, answer.Message)
	switch answer.Code {
	case minio.NoSuchKey, "NotFound":
		return fmt.Errorf("%s: %w", doing, errMissing)
	case minio.InvalidRange:
		return fmt.Errorf("%s: %w", doing, errNoSuchRange)
	case minio.NoSuchBucket:
		return away(doing, "the bucket is not there", "make it, or name another: --s3-bucket", said)
	case minio.NoSuchUpload:
		return away(doing, "the upload in parts is gone", "send it again", said)
	}
	switch answer.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound: // the last: no such user, at versitygw
		return away(doing, "the object store does not let us in", "check the credentials, their policy for the bucket, and this machine's clock", said)
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusConflict: // the last: with another call under way
	default:
		if answer.StatusCode < http.StatusInternalServerError {
			return fmt.Errorf("%s: the object store refuses: %w", doing, said)
		}
	}
	return away(doing, "the object store can't now", "", said)
}

// away is an error of S3's that may be over later. Logs have all of it; what a
// caller may read names neither endpoint, bucket nor key.
func away(doing, what, hint string, err error) error {
	return fmt.Errorf("%s: %w: %w", doing, &nimbus.Error{Code: nimbus.CodeUnavailable, Message: what, Hint: hint}, err)
}
