package mem_test

import (
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob/blobtest"
	"github.com/nimbus-ci/nimbus/internal/blob/mem"
)

func TestStore(t *testing.T) {
	t.Parallel()
	blobtest.TestStore(t, func(*testing.T) blobtest.Place { return blobtest.Place{Store: mem.New(100 << 20)} })
}

func TestAllTogetherIsBounded(t *testing.T) {
	t.Parallel()
	s := mem.New(10)
	put := func(key, content string) error {
		_, err := s.Put(t.Context(), key, strings.NewReader(content), 100)
		return err
	}
	for _, step := range []struct {
		key, content string
		want         nimbus.Code
	}{
		{"a", "12345678901", nimbus.CodeTooLarge},
		{"a", "123456", ""},
		{"b", "12345", nimbus.CodeTooLarge},
		{"b", "1234", ""},
		{"a", "1234567", nimbus.CodeTooLarge},
		{"a", "", ""}, // replaced: its room is free
		{"c", "123456", ""},
	} {
		if err := put(step.key, step.content); nimbus.ErrorCode(err) != step.want {
			t.Errorf("%s of %d bytes: %v", step.key, len(step.content), err)
		}
	}
	if err := s.Delete(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	if err := put("d", "123456"); err != nil {
		t.Errorf("after a deletion: %v", err)
	}
}
