package image

import (
	"fmt"
	"io"
	"strings"
)

// Cpio writes an archive of the kind that kernels take as initrd ("newc").
// Archives can be put one behind the other.
type Cpio struct {
	w   io.Writer
	ino int
	err error
}

// NewCpio begins an archive on w.
func NewCpio(w io.Writer) *Cpio { return &Cpio{w: w} }

// Modes of files, from stat.h.
const (
	modeDir  = 0o040755
	modeFile = 0o100644
	modeExec = 0o100755
)

// Dir adds a folder.
func (c *Cpio) Dir(name string) { c.entry(name, modeDir, nil) }

// File adds a file.
func (c *Cpio) File(name string, data []byte) { c.entry(name, modeFile, data) }

// Program adds a file that can be executed.
func (c *Cpio) Program(name string, data []byte) { c.entry(name, modeExec, data) }

// Close ends the archive and returns the first error of all.
func (c *Cpio) Close() error {
	c.entry("TRAILER!!!", 0, nil)
	if c.err != nil {
		return fmt.Errorf("write initrd: %w", c.err)
	}
	return nil
}

func (c *Cpio) entry(name string, mode int, data []byte) {
	c.ino++
	const uid, gid, links, mtime, device, check = 0, 0, 1, 0, 0, 0
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		c.ino, mode, uid, gid, links, mtime, len(data), device, device, device, device, len(name)+1, check)
	c.write([]byte(pad(header + name + "\x00")))
	c.write(data)
	c.write([]byte(strings.Repeat("\x00", -len(data)&3)))
}

// pad fills up to the next multiple of four.
func pad(s string) string { return s + strings.Repeat("\x00", -len(s)&3) }

func (c *Cpio) write(p []byte) {
	if c.err == nil {
		_, c.err = c.w.Write(p)
	}
}
