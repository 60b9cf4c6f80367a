package filesum_test

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/filesum"
)

// TestAFileIsReadAgainOnceItChanged: whatever its times are set to.
func TestAFileIsReadAgainOnceItChanged(t *testing.T) {
	t.Parallel()
	var b filesum.Book
	path := filepath.Join(t.TempDir(), "file")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	has := func(content string) {
		t.Helper()
		sum := sha256.Sum256([]byte(content))
		if got, err := b.Of(path); err != nil || got.SHA256 != hex.EncodeToString(sum[:]) || got.Bytes != int64(len(content)) {
			t.Errorf("%+v, %v, want that of %q", got, err, content)
		}
	}
	write("one")
	has("one")
	has("one")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+".old"); err != nil { // the kernel's clock is coarse: another inode is told apart at once
		t.Fatal(err)
	}
	write("two")
	if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	has("two")
	if got, err := b.Read(path); err != nil || got.Bytes != 3 {
		t.Errorf("%+v, %v", got, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Of(path); !os.IsNotExist(err) {
		t.Errorf("of no file: %v", err)
	}
}
