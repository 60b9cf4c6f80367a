package nimbus

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"
)

func TestErrorCode(t *testing.T) {
	t.Parallel()
	missing := Errorf(CodeNotFound, "no image %q: %w", "x", fs.ErrNotExist).WithHint("build it")
	wrapped := fmt.Errorf("start job: %w", missing)
	if got := ErrorCode(wrapped); got != CodeNotFound {
		t.Errorf("code of a wrapped error: %q", got)
	}
	if got := ErrorHint(wrapped); got != "build it" {
		t.Errorf("hint of a wrapped error: %q", got)
	}
	if !errors.Is(wrapped, fs.ErrNotExist) {
		t.Error("the cause is lost")
	}
	if got := ErrorCode(errors.New("plain")); got != CodeInternal {
		t.Errorf("code of a plain error: %q", got)
	}
	if got := ErrorCode(nil); got != "" {
		t.Errorf("code of nil: %q", got)
	}
	outer := Errorf(CodeUnavailable, "try later: %w", missing)
	if ErrorCode(outer) != CodeUnavailable || ErrorHint(outer) != "build it" {
		t.Errorf("outermost code with the nearest hint: %q, %q", ErrorCode(outer), ErrorHint(outer))
	}
}
