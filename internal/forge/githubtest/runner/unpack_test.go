package runner

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"testing"
)

// TestUnpackStaysInside: no name and no link of an archive leads out.
func TestUnpackStaysInside(t *testing.T) {
	t.Parallel()
	for name, headers := range map[string][]tar.Header{
		"dots":              {{Name: "../escaped"}},
		"absolute":          {{Name: "/escaped"}},
		"through a link":    {{Name: "link", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "link/escaped"}},
		"onto a link":       {{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "../escaped"}, {Name: "link"}},
		"a device":          {{Name: "device", Typeflag: tar.TypeChar}},
		"absolute and deep": {{Name: "a/../../escaped"}},
	} {
		outer := t.TempDir()
		dir := filepath.Join(outer, "work")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := unpack(archive(t, headers), dir); err == nil {
			t.Errorf("%s: was unpacked", name)
		}
		if _, err := os.Lstat(filepath.Join(outer, "escaped")); err == nil {
			t.Errorf("%s: a file was written outside", name)
		}
	}
}

func archive(t *testing.T, headers []tar.Header) *bytes.Buffer {
	t.Helper()
	var out bytes.Buffer
	zipped := gzip.NewWriter(&out)
	w := tar.NewWriter(zipped)
	for _, h := range headers {
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zipped.Close(); err != nil {
		t.Fatal(err)
	}
	return &out
}
