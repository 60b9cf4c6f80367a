package flatten

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"strings"
)

// Kinds of files, as tar has them.
const (
	typeFile    = tar.TypeReg
	typeDir     = tar.TypeDir
	typeSymlink = tar.TypeSymlink
	typeHard    = tar.TypeLink
	typeChar    = tar.TypeChar
	typeBlock   = tar.TypeBlock
	typeFIFO    = tar.TypeFifo
)

// Whiteouts: names that take away what lower layers have.
const (
	whiteout = ".wh."
	opaque   = ".wh..wh.opq" // all of a folder
	reserved = ".wh..wh."    // of AUFS, for itself
)

// xattrRecord begins the names of tar's records of extended attributes.
const xattrRecord = "SCHILY.xattr."

// kept are the name spaces of attributes that mean something in a guest.
var kept = []string{"security.", "user.", "trusted."}

// Apply lays one more layer, a tar stream, over those before. After an error
// the tree is of no more use.
func (t *Tree) Apply(layer io.Reader) error {
	t.layer++
	in := tar.NewReader(&bounded{t, layer})
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return drain(&bounded{t, layer}) // what a digest covers, and a bomb may hide in
		}
		if err != nil {
			return fmt.Errorf("read layer %d: %w", t.layer, err)
		}
		if err := t.apply(h, in); err != nil {
			return fmt.Errorf("layer %d: %w", t.layer, err)
		}
	}
}

func drain(r io.Reader) error {
	if _, err := io.Copy(io.Discard, r); err != nil {
		return fmt.Errorf("read layer: %w", err)
	}
	return nil
}

// bounded counts what is read of the layers, and ends at their bound.
type bounded struct {
	t *Tree
	r io.Reader
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	b.t.bytes += int64(n)
	if b.t.bytes > b.t.limits.Bytes {
		return n, b.t.tooLarge()
	}
	return n, err
}

func (t *Tree) apply(h *tar.Header, content io.Reader) error {
	parts, err := split(h.Name)
	if err != nil {
		return err
	}
	made, err := t.inode(h, content)
	if err != nil || made == nil && h.Typeflag != typeHard {
		return err
	}
	if len(parts) == 0 {
		return t.describeRoot(h.Name, made)
	}
	name := parts[len(parts)-1]
	hides := strings.HasPrefix(name, whiteout)
	in, err := t.folder(parts[:len(parts)-1], !hides)
	if err != nil || in == nil {
		return err
	}
	switch {
	case name == opaque:
		for child := range in.children {
			t.remove(in, child)
		}
	case strings.HasPrefix(name, reserved):
	case hides:
		if name == whiteout {
			return refuse(h.Name, "hides nothing")
		}
		t.remove(in, strings.TrimPrefix(name, whiteout))
	case h.Typeflag == typeHard:
		return t.hardLink(in, name, h)
	default:
		t.put(in, name, made)
	}
	return nil
}

// put gives a name to a file. A folder that is there already keeps what is in
// it.
func (t *Tree) put(in *inode, name string, made *inode) {
	if before := in.children[name]; before != nil && before.kind == typeDir && made.kind == typeDir {
		made.children = before.children
	}
	in.children[name] = &entry{made, t.layer}
}

func (t *Tree) describeRoot(name string, made *inode) error {
	if made == nil || made.kind != typeDir {
		return refuse(name, "would take the place of the root")
	}
	made.children = t.root.children
	t.root = made
	return nil
}

func (t *Tree) hardLink(in *inode, name string, h *tar.Header) error {
	parts, err := split(h.Linkname)
	if err != nil {
		return err
	}
	if len(parts) == 0 {
		return refuse(h.Name, "is a hard link to the root")
	}
	target, err := t.folder(parts[:len(parts)-1], false)
	if err != nil {
		return err
	}
	if target == nil || target.children[parts[len(parts)-1]] == nil {
		return refuse(h.Name, "is a hard link to %q, which isn't there", h.Linkname)
	}
	found := target.children[parts[len(parts)-1]].inode
	if found.kind == typeDir {
		return refuse(h.Name, "is a hard link to the folder %q", h.Linkname)
	}
	in.children[name] = &entry{found, t.layer}
	return nil
}

// inode makes a file of an entry; nil for a hard link, and for what says
// nothing about a file.
func (t *Tree) inode(h *tar.Header, content io.Reader) (*inode, error) {
	n := &inode{
		kind: h.Typeflag, mode: h.Mode & 0o7777, uid: h.Uid, gid: h.Gid, modified: h.ModTime,
		major: h.Devmajor, minor: h.Devminor, xattrs: attributes(h),
	}
	cost := len(h.Name) + len(h.Linkname)
	for key, value := range n.xattrs {
		cost += len(key) + len(value)
	}
	var size int64
	if !isID(h.Uid) || !isID(h.Gid) {
		return nil, refuse(h.Name, fmt.Sprintf("is of user %d and group %d, which no Linux has", h.Uid, h.Gid))
	}
	switch h.Typeflag {
	case typeFile, tar.TypeCont, tar.TypeGNUSparse:
		n.kind, size = typeFile, h.Size // of a sparse one with its holes
	case typeDir:
		n.children = map[string]*entry{}
	case typeSymlink:
		n.target = h.Linkname
	case typeHard, typeChar, typeBlock, typeFIFO:
	case tar.TypeXGlobalHeader:
		return nil, t.take(cost, 0)
	default:
		return nil, refuse(h.Name, "is of an unknown kind")
	}
	if err := t.take(cost, size); err != nil || h.Typeflag == typeHard {
		return nil, err
	}
	if h.Typeflag == typeSymlink && (h.Linkname == "" || len(h.Linkname) > maxPath) {
		return nil, refuse(h.Name, "is a link that leads nowhere")
	}
	return n, t.store(n, size, content)
}

// isID tells whether a number can be a user's or group's: they have 32 bits, and
// the last number stands for none.
func isID(n int) bool { return n >= 0 && n < math.MaxUint32 }

// store keeps a file's content in the spool.
func (t *Tree) store(n *inode, size int64, content io.Reader) error {
	n.at, n.size = t.end, size
	written, err := io.Copy(io.NewOffsetWriter(t.spool, t.end), content)
	t.end += written
	if err == nil && written != size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("unpack file: %w", err)
	}
	return nil
}

func attributes(h *tar.Header) map[string]string {
	all := maps.Clone(h.PAXRecords)
	maps.DeleteFunc(all, func(key, _ string) bool {
		name, ok := strings.CutPrefix(key, xattrRecord)
		return !ok || !anyPrefix(name, kept)
	})
	if len(all) == 0 {
		return nil
	}
	return all
}

func anyPrefix(s string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}
