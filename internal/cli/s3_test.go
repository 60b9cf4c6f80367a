package cli

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob/s3"
)

func TestS3Flags(t *testing.T) {
	t.Parallel()
	got, err := s3Flags{Region: "us-east-1"}.config()
	if err != nil || got != nil {
		t.Errorf("none is named: %v, %v", got, err)
	}
	for _, f := range []s3Flags{{Bucket: "b"}, {Prefix: "p/"}, {CredentialsFile: "f"}, {CA: "f"}, {PathStyle: true}} {
		if _, err := f.config(); nimbus.ErrorCode(err) != nimbus.CodeInvalid || nimbus.ErrorHint(err) == "" {
			t.Errorf("%+v without an endpoint: %v", f, err)
		}
	}
	got, err = s3Flags{Endpoint: "https://s3", Bucket: "b", Prefix: "p/", Region: "r", PathStyle: true, CredentialsFile: "f", CA: "c"}.config()
	want := &s3.Config{Endpoint: "https://s3", Bucket: "b", Prefix: "p/", Region: "r", PathStyle: true, CredentialsFile: "f", CAFile: "c"}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(s3.Config{})); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
}
