package flatten

import (
	"archive/tar"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
)

// WriteTar writes the file system: names sorted, each file's content at the
// first of its names.
func (t *Tree) WriteTar(out io.Writer) error {
	w := &writer{tree: t, out: tar.NewWriter(out), names: map[*inode]string{}}
	if err := w.folder("./", t.root); err != nil {
		return fmt.Errorf("write file system: %w", err)
	}
	if err := w.out.Close(); err != nil {
		return fmt.Errorf("write file system: %w", err)
	}
	return nil
}

type writer struct {
	tree  *Tree
	out   *tar.Writer
	names map[*inode]string // the first of each file
}

func (w *writer) folder(name string, n *inode) error {
	if err := w.out.WriteHeader(n.header(name)); err != nil {
		return fmt.Errorf("folder %q: %w", name, err)
	}
	for _, child := range slices.Sorted(maps.Keys(n.children)) {
		e, full := n.children[child], path.Join(name, child)
		write := w.file
		if e.kind == typeDir {
			write, full = w.folder, full+"/"
		}
		if err := write(full, e.inode); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) file(name string, n *inode) error {
	h := n.header(name)
	if first, ok := w.names[n]; ok {
		h.Typeflag, h.Linkname, h.Size, h.PAXRecords = typeHard, first, 0, nil
	} else {
		w.names[n] = name
	}
	if err := w.out.WriteHeader(h); err != nil {
		return fmt.Errorf("file %q: %w", name, err)
	}
	if h.Size > 0 {
		if _, err := io.Copy(w.out, io.NewSectionReader(w.tree.spool, n.at, n.size)); err != nil {
			return fmt.Errorf("file %q: %w", name, err)
		}
	}
	return nil
}

// header describes a file. What layers say of user names is left out: the
// numbers are what counts.
func (n *inode) header(name string) *tar.Header {
	return &tar.Header{
		Typeflag: n.kind, Name: name, Linkname: n.target, Size: n.size, Mode: n.mode, Uid: n.uid, Gid: n.gid,
		ModTime: n.modified.Truncate(1e9), Devmajor: n.major, Devminor: n.minor, PAXRecords: n.xattrs, Format: tar.FormatPAX,
	}
}
