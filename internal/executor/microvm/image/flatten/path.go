package flatten

import (
	"strings"

	"github.com/nimbus-ci/nimbus"
)

// Bounds of names, as Linux and squashfs have them.
const (
	maxPath = 4096
	maxName = 255
	maxHops = 40 // over symbolic links
)

// split checks a name of a layer and takes it apart; nil is the root itself.
func split(name string) ([]string, error) {
	if len(name) > maxPath {
		return nil, refuse(name, "is longer than %d bytes", maxPath)
	}
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "" || part == ".":
			continue
		case part == "..":
			return nil, refuse(name, "leads out of its folder")
		case len(part) > maxName || strings.ContainsRune(part, 0):
			return nil, refuse(name, "has a part that is no file name")
		}
		parts = append(parts, part)
	}
	return parts, nil
}

func refuse(name, format string, args ...any) error {
	const enough = 200
	if len(name) > enough {
		name = name[:enough] + "…"
	}
	return nimbus.Errorf(nimbus.CodeInvalid, "the image can't be used: %q "+format, append([]any{name}, args...)...).
		WithHint("no tool that builds images makes such a thing: look at where the image is from")
}

// walk is where a path has led so far: the folders from the root on.
type walk struct {
	tree  *Tree
	trail []*inode
	hops  int
	make  bool // folders that are missing
}

func (w *walk) here() *inode { return w.trail[len(w.trail)-1] }

// folder finds the folder that parts lead to, over symbolic links, as the
// kernel would with the image as its root. It makes what is missing if asked
// to; else it returns nil for it.
func (t *Tree) folder(parts []string, create bool) (*inode, error) {
	w := &walk{tree: t, trail: []*inode{t.root}, make: create}
	ok, err := w.follow(parts)
	if err != nil || !ok {
		return nil, err
	}
	return w.here(), nil
}

func (w *walk) follow(parts []string) (found bool, err error) {
	for _, part := range parts {
		if found, err := w.step(part); err != nil || !found {
			return false, err
		}
	}
	return true, nil
}

func (w *walk) step(part string) (found bool, err error) {
	if part == ".." {
		w.trail = w.trail[:max(1, len(w.trail)-1)] // above the root is the root
		return true, nil
	}
	next := w.here().children[part]
	switch {
	case next == nil && !w.make:
		return false, nil
	case next == nil:
		if err := w.tree.take(len(part), 0); err != nil {
			return false, err
		}
		next = &entry{newFolder(), w.tree.layer}
		w.here().children[part] = next
	case next.kind == typeSymlink:
		return w.link(part, next.target)
	case next.kind != typeDir:
		return false, refuse(part, "is no folder, but has files in it")
	}
	if len(w.trail) > maxPath/2 {
		return false, refuse(part, "is too deep")
	}
	w.trail = append(w.trail, next.inode)
	return true, nil
}

// link goes where a symbolic link leads.
func (w *walk) link(name, target string) (found bool, err error) {
	if w.hops++; w.hops > maxHops {
		return false, refuse(name, "leads over too many links")
	}
	if strings.HasPrefix(target, "/") {
		w.trail = w.trail[:1]
	}
	var parts []string
	for part := range strings.SplitSeq(target, "/") {
		if part != "" && part != "." {
			parts = append(parts, part)
		}
	}
	return w.follow(parts)
}
