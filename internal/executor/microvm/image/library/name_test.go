package library_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/library"
)

// TestImportsHaveNamesThatJobsCanSay: each name that is taken makes a label that
// gets the import, and each that is refused says what to do before a byte is read.
func TestImportsHaveNamesThatJobsCanSay(t *testing.T) {
	t.Parallel()
	images := store(t)
	d, err := images.Draft()
	must(t, err)
	for _, path := range []string{d.Kernel(), d.Modules(), d.Root()} {
		must(t, os.WriteFile(path, nil, 0o600))
	}
	_, err = d.Publish(image.Manifest{Name: "built"})
	must(t, err)
	dir := filepath.Join(t.TempDir(), "Our Layout")
	path, err := layout.Write(dir, empty.Index)
	must(t, err)
	must(t, path.AppendImage(tiny(t)))
	l := library.New(library.Config{Images: images})
	for name, hint := range map[string]string{
		"":                        "--as NAME (our-layout, say)",
		"Tool":                    "(tool, say)",
		"my tool":                 "(my-tool, say)",
		"-tool":                   "(tool, say)",
		"a..b":                    "(a.b, say)",
		"ünicode":                 "lower case letters",
		"a:b":                     "without : / and @",
		"../escape":               "without : / and @",
		"built":                   "another word",
		nimbus.DefaultImage:       "another word",
		strings.Repeat("a", 201):  "at most 200",
		strings.Repeat("a", 9999): "at most 200",
	} {
		_, _, err := l.Import(t.Context(), "oci:"+dir, name, func(string) { t.Errorf("%.40q: it began", name) })
		if nimbus.ErrorCode(err) != nimbus.CodeInvalid || !strings.Contains(nimbus.ErrorHint(err), hint) || len(err.Error()) > 400 {
			t.Errorf("%.40q: %v, hint %q", name, err, nimbus.ErrorHint(err))
		}
	}
	for _, name := range []string{"tool", "tool-1.2_3", strings.Repeat("a", 200)} {
		_, root, err := l.Import(t.Context(), "oci:"+dir, name, silent)
		must(t, err)
		wants, err := nimbus.ParseLabels([]string{"nimbus", "microvm", "image:" + name})
		must(t, err)
		img, err := l.Get(t.Context(), wants.Class.Image, "job", silent)
		if err != nil || img.Root() != root.Path() {
			t.Errorf("%.40q: %q, %v", name, img.Root(), err)
		}
	}
}

// TestNamesOfSources: what a reference is like is offered as a name.
func TestNamesOfSources(t *testing.T) {
	t.Parallel()
	l := library.New(library.Config{Images: store(t)})
	for reference, hint := range map[string]string{
		"daemon:acme/build:7":      "(build, say)",
		"daemon:build":             "(build, say)",
		"archive:./Build.tar":      "(build, say)",
		"oci:./layout:1":           "(layout, say)",
		"oci:layout/":              "(layout, say)",
		"oci:..":                   "--as NAME",
		"ghcr.io/acme/tool:1.2-RC": "(tool, say)", // labels have no upper case
		"ghcr.io/" + strings.Repeat("a", 190) + ":" + strings.Repeat("b", 90): "(aaa",
	} {
		_, _, err := l.Import(t.Context(), reference, "", func(string) { t.Errorf("%s: it began", reference) })
		if nimbus.ErrorCode(err) != nimbus.CodeInvalid || !strings.Contains(nimbus.ErrorHint(err), hint) {
			t.Errorf("%s: %v, hint %q", reference, err, nimbus.ErrorHint(err))
		}
	}
}

// TestLongReferences of a registry become files all the same.
func TestLongReferences(t *testing.T) {
	t.Parallel()
	reference, _, _ := serve(t, tiny(t))
	registry, _, _ := strings.Cut(reference, "/")
	long := registry + "/" + strings.Repeat("a/", 80) + "tiny:1" // each slash takes three bytes of a file's name
	push(t, long, tiny(t))
	l := library.New(library.Config{Images: store(t)})
	ref, root, err := l.Import(t.Context(), long, "", silent)
	must(t, err)
	img, err := l.Get(t.Context(), ref.Name, "job", silent)
	if err != nil || img.Root() != root.Path() || !nimbus.IsImageName(ref.Name) {
		t.Errorf("%q: %q, %v", ref.Name, img.Root(), err)
	}
}
