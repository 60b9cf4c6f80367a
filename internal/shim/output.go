package shim

import (
	"fmt"
	"io"
	"os"
)

// outputLimit is how much of the first process' output is kept: at the limit
// the file starts anew, the one before it stays as "<name>.1".
const outputLimit = 512 << 10

// boundedFile is a file that a flood can't fill a disk with. Writes never fail:
// whoever writes must not block or die for a full disk.
type boundedFile struct {
	path string
	file *os.File
	size int
}

func (b *boundedFile) Write(p []byte) (int, error) {
	if b.file == nil || b.size+len(p) > outputLimit {
		b.rotate()
	}
	if b.file != nil {
		n, err := b.file.Write(p)
		b.size += n
		if err != nil {
			b.file.Close()
			b.file = nil
		}
	}
	return len(p), nil
}

func (b *boundedFile) rotate() {
	if b.file != nil {
		b.file.Close()
		_ = os.Rename(b.path, b.path+".1") // kept if it can be
	}
	b.size = 0
	b.file, _ = os.OpenFile(b.path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600) // nil: dropped, see Write
}

// drain copies all of r into the bounded file until r ends.
func (b *boundedFile) drain(r io.Reader) error {
	buf := make([]byte, 32<<10)
	if _, err := io.CopyBuffer(struct{ io.Writer }{b}, struct{ io.Reader }{r}, buf); err != nil {
		return fmt.Errorf("drain output: %w", err)
	}
	return nil
}
