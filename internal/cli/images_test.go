package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
)

// TestOneOddFolderHidesNoImage: it is listed as what it is, beside the others.
func TestOneOddFolderHidesNoImage(t *testing.T) {
	t.Parallel()
	store := image.Store{Dir: t.TempDir()}
	d, err := store.Draft()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{d.Kernel(), d.Modules(), d.Root()} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Publish(image.Manifest{Name: "whole"}); err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(store.Dir, "half")
	if err := os.Mkdir(half, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(half, "image.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for command, want := range map[string]struct {
		code int
		says string
	}{
		"list": {ExitOK, "half holds no image that can be read"}, "verify": {ExitFailure, "half holds no image that can be read"},
	} {
		var out, errs bytes.Buffer
		code := Main(t.Context(), "test", []string{"images", command, "--images", store.Dir}, Streams{Out: &out, Err: &errs})
		if said := out.String() + errs.String(); code != want.code || !strings.Contains(said, want.says) || !strings.Contains(said, "whole") {
			t.Errorf("%s: %d: %s", command, code, said)
		}
	}
}
