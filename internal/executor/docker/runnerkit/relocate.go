package runnerkit

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/nimbus-ci/nimbus"
)

// A program names its loader in its header, and a loader has the folders that it
// searches inside. Both are changed here, in place and without moving a byte, to
// those of the kit. So its programs start by themselves, however they are called
// and by whom: .NET and Node find themselves by /proc/self/exe, which would be the
// loader if that were called with the program's name. And no variable such as
// LD_LIBRARY_PATH is needed, which the image's own programs would get, too.

// arch is how an architecture calls its loader and its folder of libraries.
type arch struct{ triplet, loader string }

func archOf(goarch string) arch {
	switch goarch {
	case "amd64":
		return arch{"x86_64-linux-gnu", "ld-linux-x86-64.so.2"}
	case "arm64":
		return arch{"aarch64-linux-gnu", "ld-linux-aarch64.so.1"}
	}
	return arch{}
}

// libs is the folder of libraries, from the root. The image's /lib leads to
// /usr/lib.
func (a arch) libs() string { return "usr/lib/" + a.triplet }

// relocate makes a file of the kit find the kit.
func (l *layer) relocate(name string, f *os.File) error {
	switch {
	case name == "glibc/ld.so":
		return rewrite(f, l.arch.loaderWords())
	case strings.HasPrefix(name, "glibc/lib/libcrypto.so"):
		return rewrite(f, []words{{"/usr/lib/ssl", SSLDir}})
	case strings.HasPrefix(name, "runner/"):
		return l.program(name, f)
	}
	return nil
}

// program has a program of glibc's ask for the kit's loader, and notes what else
// it needs.
func (l *layer) program(name string, f *os.File) error {
	var magic [len(elf.ELFMAG)]byte
	if n, err := f.ReadAt(magic[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	} else if string(magic[:n]) != elf.ELFMAG {
		return nil
	}
	binary, err := elf.NewFile(f)
	if err != nil {
		return nil //nolint:nilerr // for another system: packages bring such
	}
	for _, p := range binary.Progs {
		const longest = 4 << 10 // a path
		if p.Type != elf.PT_INTERP || p.Filesz > longest {
			continue
		}
		asked := make([]byte, p.Filesz)
		if _, err := p.ReadAt(asked, 0); err != nil {
			return fmt.Errorf("read its loader: %w", err)
		}
		if path.Base(string(bytes.TrimRight(asked, "\x00"))) != l.arch.loader {
			return nil // of another libc
		}
		if len(loader) >= len(asked) {
			return nimbus.Errorf(nimbus.CodeInternal, "there is no room in it for the name of a loader")
		}
		clear(asked)
		copy(asked, loader)
		if _, err := f.WriteAt(asked, int64(p.Off)); err != nil { //nolint:gosec // within the file
			return err
		}
		libraries, err := binary.ImportedLibraries()
		if err != nil {
			return fmt.Errorf("read what it needs: %w", err)
		}
		if l.needed == nil {
			l.needed = map[string][]string{}
		}
		l.needed[name] = libraries
	}
	return nil
}

// words are a text in a program's data, and what takes its place: a path with as
// many slashes at its end as make it as long.
type words struct{ from, to string }

func (w words) replacement() []byte {
	return append([]byte(w.to), bytes.Repeat([]byte("/"), len(w.from)-len(w.to))...)
}

// loaderWords are what a loader of glibc's has inside, of the system that it was
// made for. What is not in the kit is to be missing, rather than to come from an
// image that may have another libc; so does what an image has preloaded.
func (a arch) loaderWords() []words {
	return []words{
		{"/usr/lib/" + a.triplet + "/", libs},
		{"/lib/" + a.triplet + "/", libs},
		{"\x00/lib/\x00/usr/lib/\x00", "\x00/.no/\x00/.nowhere\x00"},
		{"/etc/ld.so.cache", "/.nimbus/nocache"},
		{"/etc/ld.so.preload", "/.nimbus/nopreload"},
	}
}

// rewrite replaces each text, which has to be there.
func rewrite(f *os.File, all []words) error {
	raw, err := io.ReadAll(io.NewSectionReader(f, 0, maxRewritten))
	if err != nil {
		return err
	}
	for _, w := range all {
		if len(w.to) > len(w.from) || !bytes.Contains(raw, []byte(w.from)) {
			return nimbus.Errorf(nimbus.CodeInternal, "it has no %q inside", w.from)
		}
		raw = bytes.ReplaceAll(raw, []byte(w.from), w.replacement())
	}
	_, err = f.WriteAt(raw, 0)
	return err
}

// maxRewritten is the largest file whose text is replaced: a loader or libcrypto.
const maxRewritten = 32 << 20
