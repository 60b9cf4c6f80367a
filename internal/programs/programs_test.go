package programs

import (
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/nimbus-ci/nimbus"
)

func TestFindUnpacksWhatIsEmbedded(t *testing.T) {
	t.Parallel()
	f := Finder{Embedded: fstest.MapFS{Shim: {Data: []byte("#!/bin/sh\n")}}, Dir: t.TempDir()}
	path, err := f.Find(Shim)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o755 {
		t.Fatalf("got %v, %v", info, err)
	}
	again, err := f.Find(Shim)
	if err != nil || again != path {
		t.Errorf("got %s, %v; want %s again", again, err, path)
	}
	unchanged, err := os.Stat(path)
	if err != nil || !os.SameFile(info, unchanged) {
		t.Errorf("was written again: %v", err)
	}
}

func TestFindMendsWhatWasChanged(t *testing.T) {
	t.Parallel()
	f := Finder{Embedded: fstest.MapFS{Shim: {Data: []byte("whole")}}, Dir: t.TempDir()}
	path, err := f.Find(Shim)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("who"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Find(Shim); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "whole" {
		t.Errorf("got %q, %v", got, err)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

func TestFindPrefersPathToNothing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := (Finder{}).Find(Guest); nimbus.ErrorCode(err) != nimbus.CodeNotFound || nimbus.ErrorHint(err) == "" {
		t.Fatalf("got %v", err)
	}
	path := filepath.Join(os.Getenv("PATH"), Guest)
	if err := os.WriteFile(path, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := (Finder{}).Find(Guest); err != nil || got != path {
		t.Errorf("got %s, %v", got, err)
	}
}

// TestDataStaysClosed: a program that is unpacked before anything else is there
// makes no data directory that others may look into.
func TestDataStaysClosed(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	f := Finder{Embedded: fstest.MapFS{"tool": {Data: []byte("#!/bin/sh\n")}}, Dir: filepath.Join(data, "programs")}
	if _, err := f.Find("tool"); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(data)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}
