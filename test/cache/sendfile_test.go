package cache_test

import (
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/cache"
)

// fromFiles counts what of an answer is copied from files as such, which the kernel
// does, and what by hand.
type fromFiles struct {
	http.ResponseWriter

	files, other *atomic.Int64
}

func (f fromFiles) Unwrap() http.ResponseWriter { return f.ResponseWriter }

func (f fromFiles) Write(p []byte) (int, error) {
	f.other.Add(int64(len(p)))
	return f.ResponseWriter.Write(p)
}

func (f fromFiles) ReadFrom(r io.Reader) (int64, error) {
	count := f.other
	if limited, ok := r.(*io.LimitedReader); ok {
		if _, ok := limited.R.(*os.File); ok {
			count = f.files
		}
	}
	n, err := f.ResponseWriter.(io.ReaderFrom).ReadFrom(r)
	count.Add(n)
	return n, err
}

// TestDownloadsAreSentByTheKernel: from the disk through all rooms to the
// connection, no byte of a content is copied by this process.
func TestDownloadsAreSentByTheKernel(t *testing.T) {
	t.Parallel()
	w := newWorld(t, cache.Limits{})
	me := w.as(job())
	target := me.uploadURL("k")
	blocks := []string{strings.Repeat("a", 3*MiB), strings.Repeat("b", MiB+1), "c"}
	for _, b := range blocks {
		me.putBlock(target, b[:1], b)
	}
	me.putList(target, "a", "b", "c")
	want := strings.Join(blocks, "")
	if a := me.finalize("k", len(want)); !a.ok() {
		t.Fatal(a.body)
	}
	get := me.find("k").text("signed_download_url")
	var files, other atomic.Int64
	w.wrap = func(rw http.ResponseWriter) http.ResponseWriter { return fromFiles{rw, &files, &other} }
	if a := me.send("GET", get, nil); a.body != want {
		t.Errorf("%d bytes came: %d", len(a.body), a.status)
	}
	if a := me.send("GET", get, nil, "x-ms-range", "bytes=5-"); a.body != want[5:] {
		t.Errorf("%d bytes of a part came: %d", len(a.body), a.status)
	}
	// They are counted a moment after they came.
	sent := int64(2*len(want) - 5)
	w.wait("all bytes are counted", func() bool { return files.Load()+other.Load() >= sent })
	if files.Load() != sent || other.Load() != 0 {
		t.Errorf("%d bytes of %d came from files, %d otherwise", files.Load(), sent, other.Load())
	}
}
