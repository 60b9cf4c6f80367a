// Package flatten puts the layers of a container image together into one file
// system, and writes that as a tar stream which depends on what is in it alone:
// not on the time, the place, or the order within the layers.
//
// Layers come from strangers. No path of theirs touches this machine's file
// system: names live in a tree in memory, contents in one spool file. Names
// that lead out of the root, links to nothing, and whatever is over the bounds
// are refused.
package flatten

import (
	"io/fs"
	"os"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Limits bound what layers may hold together.
type Limits struct {
	Bytes   int64 // of unpacked layers, and of the files in them
	Entries int
}

// Default are the limits where nothing is configured.
func Default() Limits { return Limits{Bytes: 32 << 30, Entries: 2 << 20} }

// metaBytes bounds the names, link targets and attributes of all entries, which
// are held in memory.
const metaBytes = 512 << 20

// Tree is a file system in the making.
type Tree struct {
	root   *inode
	limits Limits
	layer  int // that is being applied, from 1

	entries int
	bytes   int64 // of the layers' streams
	content int64 // of files
	meta    int64

	spool *os.File
	end   int64 // of the spool
}

// inode is a file: what hard links share.
type inode struct {
	kind         byte // as tar's type flags
	mode         int64
	uid, gid     int
	modified     time.Time
	target       string // of a symbolic link
	major, minor int64
	xattrs       map[string]string // by tar's record
	at, size     int64             // of the content, in the spool
	children     map[string]*entry // of a folder
}

// entry is a name in a folder, and the layer that put it there last.
type entry struct {
	*inode

	layer int
}

// New begins an empty file system. Contents are kept in spool, which the caller
// removes.
func New(spool *os.File, limits Limits) *Tree {
	return &Tree{root: newFolder(), limits: limits, spool: spool}
}

// Size is how many bytes all files have together.
func (t *Tree) Size() int64 { return t.content }

// Entries is how many entries the layers had.
func (t *Tree) Entries() int { return t.entries }

// newFolder is one that no layer has described.
func newFolder() *inode {
	return &inode{kind: typeDir, mode: int64(fs.ModePerm &^ 0o022), modified: time.Unix(0, 0), children: map[string]*entry{}}
}

// remove takes away what lower layers have put at and below a name, and keeps
// what the current one has: within a layer the order says nothing.
func (t *Tree) remove(in *inode, name string) {
	if e := in.children[name]; e != nil && !t.prune(e) {
		delete(in.children, name)
	}
}

// prune tells whether anything of the current layer is left.
func (t *Tree) prune(e *entry) (left bool) {
	left = e.layer == t.layer
	for name, child := range e.children {
		if t.prune(child) {
			left = true
		} else {
			delete(e.children, name)
		}
	}
	return left
}

// take counts what an entry costs.
func (t *Tree) take(meta int, content int64) error {
	t.entries++
	t.meta += int64(meta)
	switch {
	case t.entries > t.limits.Entries:
		return nimbus.Errorf(nimbus.CodeTooLarge, "the image has more than %d files", t.limits.Entries).
			WithHint("use a smaller image, or raise the limit of this host")
	case t.meta > metaBytes:
		return nimbus.Errorf(nimbus.CodeTooLarge, "the names and attributes of the image's files have more than %d MiB", metaBytes>>20)
	case content < 0 || content > t.limits.Bytes-t.content:
		return t.tooLarge()
	}
	t.content += content
	return nil
}

func (t *Tree) tooLarge() error {
	return nimbus.Errorf(nimbus.CodeTooLarge, "the image unpacks to more than %d MiB", t.limits.Bytes>>20).
		WithHint("use a smaller image, or raise the limit of this host")
}
