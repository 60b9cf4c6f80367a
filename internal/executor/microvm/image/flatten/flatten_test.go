package flatten_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/flatten"
)

// Entries of layers.
func file(name, text string) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(text)), Linkname: text}
}
func dir(name string) tar.Header {
	return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}
}
func symlink(name, to string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}
}
func hard(name, to string) tar.Header {
	return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to, Mode: 0o644}
}

// layer packs entries; a file's text is in its Linkname.
func layer(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		text := ""
		if h.Typeflag == tar.TypeReg {
			text, h.Linkname = h.Linkname, ""
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func tree(t testing.TB, limits flatten.Limits) *flatten.Tree {
	t.Helper()
	spool, err := os.Create(filepath.Join(t.TempDir(), "spool"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { spool.Close() })
	return flatten.New(spool, limits)
}

func flat(t testing.TB, layers ...[]byte) ([]byte, error) {
	t.Helper()
	tree := tree(t, flatten.Default())
	for _, l := range layers {
		if err := tree.Apply(bytes.NewReader(l)); err != nil {
			return nil, err
		}
	}
	var out bytes.Buffer
	err := tree.WriteTar(&out)
	return out.Bytes(), err
}

// names lists a stream: "name=text", "name->link", "name==hard link", "name/".
func names(t testing.TB, stream []byte) (out []string) {
	t.Helper()
	for in := tar.NewReader(bytes.NewReader(stream)); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		switch h.Typeflag {
		case tar.TypeSymlink:
			out = append(out, h.Name+"->"+h.Linkname)
		case tar.TypeLink:
			out = append(out, h.Name+"=="+h.Linkname)
		case tar.TypeReg:
			out = append(out, fmt.Sprintf("%s=%s", h.Name, text))
		default:
			out = append(out, h.Name)
		}
	}
}

func TestLayersAreMerged(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		layers [][]byte
		want   []string
	}{
		"later wins": {
			[][]byte{layer(t, file("a", "1"), file("b", "1")), layer(t, file("./a", "2"))},
			[]string{"./", "a=2", "b=1"},
		},
		"a whiteout hides": {
			[][]byte{layer(t, dir("d/"), file("d/a", "1"), file("d/b", "1")), layer(t, file("d/.wh.a", ""))},
			[]string{"./", "d/", "d/b=1"},
		},
		"a whiteout hides a whole folder": {
			[][]byte{layer(t, file("d/e/a", "1"), file("x", "")), layer(t, file(".wh.d", ""))},
			[]string{"./", "x="},
		},
		"what a layer brings survives its own whiteouts, before and after": {
			[][]byte{layer(t, file("d/a", "old"), file("d/b", "old")), layer(t, file("d/a", "new"), file("d/.wh..wh.opq", ""), file("d/c", "new"), file("d/.wh.c", ""))},
			[]string{"./", "d/", "d/a=new", "d/c=new"},
		},
		"a whiteout of nothing": {
			[][]byte{layer(t, file("a", "1")), layer(t, file("no/such/.wh.folder", ""))},
			[]string{"./", "a=1"},
		},
		"marks of AUFS are no files": {
			[][]byte{layer(t, file(".wh..wh.plnk", ""), file("a", ""))}, []string{"./", "a="},
		},
		"a folder over a folder keeps what is in it, a file over one does not": {
			[][]byte{layer(t, file("d/a", "1"), file("e/a", "1")), layer(t, dir("d"), file("e", "now a file"))},
			[]string{"./", "d/", "d/a=1", "e=now a file"},
		},
		"parents are reached over links": {
			[][]byte{layer(t, dir("usr/"), dir("usr/lib/"), symlink("lib", "usr/lib"), symlink("abs", "/usr/../usr/lib")), layer(t, file("lib/a", "1"), file("abs/b", "2"))},
			[]string{"./", "abs->/usr/../usr/lib", "lib->usr/lib", "usr/", "usr/lib/", "usr/lib/a=1", "usr/lib/b=2"},
		},
		"hard links share, also across layers": {
			[][]byte{layer(t, file("b", "text")), layer(t, hard("a", "/b"), hard("c", "./a"))},
			[]string{"./", "a=text", "b==a", "c==a"},
		},
		"a hard link stays when its first name goes": {
			[][]byte{layer(t, file("a", "text"), hard("b", "a")), layer(t, file(".wh.a", ""))},
			[]string{"./", "b=text"},
		},
		"devices and pipes": {
			[][]byte{layer(t, tar.Header{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3, Mode: 0o666}, tar.Header{Typeflag: tar.TypeFifo, Name: "pipe"})},
			[]string{"./", "null", "pipe"},
		},
		"a link out of the root is the guest's to follow": {
			[][]byte{layer(t, symlink("etc", "../../../../etc"))}, []string{"./", "etc->../../../../etc"},
		},
		"an absolute name is below the root": {
			[][]byte{layer(t, file("/a", "1"))}, []string{"./", "a=1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, err := flat(t, c.layers...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, names(t, out)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestHostileLayers: none of them gets anywhere.
func TestHostileLayers(t *testing.T) {
	t.Parallel()
	for name, entries := range map[string][]tar.Header{
		"climbs":                          {file("../evil", "")},
		"climbs in the middle":            {file("a/../../evil", "")},
		"climbs within":                   {file("a/../evil", "")},
		"hard link that climbs":           {hard("a", "../../etc/shadow")},
		"hard link to nothing":            {hard("a", "etc/shadow")},
		"hard link to a folder":           {dir("d"), hard("d/e", "d")},
		"hard link to the root":           {hard("a", "/")},
		"link loop":                       {symlink("a", "b"), symlink("b", "a"), file("a/x", "")},
		"a file as a folder":              {file("a", ""), file("a/b", "")},
		"a file as the root":              {symlink(".", "etc")},
		"a name too long for any system":  {file(strings.Repeat("n", 256), "")},
		"a path too long for any system":  {file(strings.Repeat("d/", 2100)+"f", "")},
		"a whiteout without a name":       {file(".wh.", "")},
		"a hard link over a link's cycle": {symlink("l", "l/l"), hard("h", "l/x")},
		"an unknown kind":                 {{Typeflag: 'Z', Name: "z"}},
		"a user that no Linux has":        {{Typeflag: tar.TypeReg, Name: "a", Uid: 1 << 40}},
		"a group that is none":            {{Typeflag: tar.TypeDir, Name: "a/", Gid: math.MaxUint32}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := flat(t, layer(t, entries...))
			if nimbus.ErrorCode(err) != nimbus.CodeInvalid || nimbus.ErrorHint(err) == "" {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestWritesThroughLinksStayInside: a name below a link that leads out lands
// below the image's root, and nothing on this machine changes.
func TestWritesThroughLinksStayInside(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	out, err := flat(t, layer(t, symlink("up", strings.Repeat("../", 20)+strings.TrimPrefix(outside, "/")), symlink("abs", outside), file("up/evil", "x"), file("abs/evil2", "x")))
	if err != nil {
		t.Fatal(err)
	}
	inside := strings.TrimPrefix(outside, "/") + "/evil=x"
	if got := names(t, out); !slices.Contains(got, inside) || !slices.Contains(got, strings.Replace(inside, "evil", "evil2", 1)) {
		t.Errorf("got %q", got)
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("outside: %v, %v", left, err)
	}
}

// TestBombs ends at each bound.
func TestBombs(t *testing.T) {
	t.Parallel()
	small := flatten.Limits{Bytes: 64 << 10, Entries: 100}
	many := make([]tar.Header, 0, 200)
	for i := range 200 {
		many = append(many, file(fmt.Sprint(i), ""))
	}
	long := tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "g", PAXRecords: map[string]string{"comment": strings.Repeat("x", 40<<10)}}
	zeros := append(layer(t, file("a", "x")), make([]byte, 128<<10)...)
	for name, l := range map[string][]byte{
		"a large file": layer(t, file("a", strings.Repeat("x", 65<<10))),
		"many files":   layer(t, many...),
		"a deep path":  layer(t, file(strings.Repeat("d/", 150)+"f", "")),
		"long headers": layer(t, long, long),
		"an endless tail behind the archive's end": zeros,
		"a sparse file of a terabyte":              sparseBomb(t),
	} {
		if err := tree(t, small).Apply(bytes.NewReader(l)); nimbus.ErrorCode(err) != nimbus.CodeTooLarge {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// sparseBomb is a file of a terabyte without a byte in it.
func sparseBomb(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	const hole = "0\n" // no pieces of data
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "x", Mode: 0o600, Size: 512, Format: tar.FormatPAX, PAXRecords: map[string]string{
		"VENDOR.sparse.major": "1", "VENDOR.sparse.minor": "0", "VENDOR.sparse.name": "x", "VENDOR.sparse.realsize": "1099511627776",
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(append([]byte(hole), make([]byte, 512-len(hole))...)); err != nil {
		t.Fatal(err)
	}
	// The writer refuses to write GNU's keys: they are named so afterwards.
	out := b.String()
	for _, key := range []string{"major=1", "minor=0", "name=x", "realsize=1099511627776"} {
		was := fmt.Sprintf("%d VENDOR.sparse.%s\n", len("VENDOR.sparse."+key)+4, key)
		now := fmt.Sprintf("%d GNU.sparse.%s\n", len("GNU.sparse."+key)+4, key)
		if !strings.Contains(out, was) {
			t.Fatalf("no %q", was)
		}
		out = shorten(strings.Replace(out, was, now, 1), len(was)-len(now))
	}
	return []byte(out)
}

// shorten gives the extended header, the first entry of the stream, its new size.
func shorten(archive string, less int) string {
	var size int
	fmt.Sscanf(archive[124:135], "%o", &size)
	header := []byte(archive[:512])
	copy(header[124:], fmt.Sprintf("%011o", size-less))
	copy(header[148:156], "        ")
	sum := 0
	for _, c := range header {
		sum += int(c)
	}
	copy(header[148:], fmt.Sprintf("%06o\x00 ", sum))
	body := archive[512 : 512+size-less]
	rest := archive[512+size-less:]
	return string(header) + body + strings.Repeat("\x00", less) + rest
}

// TestOrderAndPlaceDoNotMatter: the same layers in any order of their entries,
// at another time, in another folder, give the same bytes.
func TestOrderAndPlaceDoNotMatter(t *testing.T) {
	t.Parallel()
	when := time.Date(2020, 2, 3, 4, 5, 6, 789, time.UTC)
	entries := []tar.Header{dir("d/"), dir("d/e/"), file("d/e/f", "text"), file("d/a", "1"), symlink("l", "d"), file("z", "z")}
	for i := range entries {
		entries[i].ModTime, entries[i].Uid, entries[i].Gid, entries[i].Uname = when, 1000+i, 100, "somebody"
		entries[i].PAXRecords = map[string]string{"SCHILY.xattr.user.k": "v", "SCHILY.xattr.security.capability": "\x01", "SCHILY.xattr.system.posix_acl_access": "no"}
	}
	first, err := flat(t, layer(t, entries...))
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(entries)
	second, err := flat(t, layer(t, entries...))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Errorf("%q\n%q", names(t, first), names(t, second))
	}
	in := tar.NewReader(bytes.NewReader(first))
	for {
		h, err := in.Next()
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == "d/e/f" {
			want := map[string]string{"SCHILY.xattr.user.k": "v", "SCHILY.xattr.security.capability": "\x01"}
			if h.Uid != 1002 || h.Gid != 100 || h.Uname != "" || !h.ModTime.Equal(when.Truncate(time.Second)) || !cmp.Equal(h.PAXRecords, want) {
				t.Errorf("%+v", h)
			}
			return
		}
	}
}

// FuzzApply: whatever the stream, the tree neither fails to end nor writes what
// it could not read again.
func FuzzApply(f *testing.F) {
	f.Add(layer(f, dir("d"), file("d/a", "1"), hard("b", "d/a"), symlink("s", "d"), file("s/c", "2"), file("d/.wh.a", "")))
	f.Add(layer(f, symlink("l", "l/l"), file("l/x", "")))
	f.Fuzz(func(t *testing.T, raw []byte) {
		tree := tree(t, flatten.Limits{Bytes: 1 << 20, Entries: 1000})
		for range 2 {
			if tree.Apply(bytes.NewReader(raw)) != nil {
				return
			}
		}
		var out bytes.Buffer
		if err := tree.WriteTar(&out); err != nil {
			return // a name or record that tar can't hold
		}
		for _, name := range names(t, out.Bytes()) {
			if strings.HasPrefix(name, "/") || strings.HasPrefix(name, "../") {
				t.Errorf("got out: %q", name)
			}
		}
	})
}
