// Package programs finds the small programs that nimbus starts: beside
// itself, where it embeds them, or in PATH.
//
// It knows only folders. What is embedded is in package embedded, so that the
// lean agent does not carry it.
package programs

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/wholefile"
)

// Names of the programs.
const (
	Shim   = "nimbus-shim"   // owns a sandbox' first process on the host
	Guest  = "nimbus-guest"  // runs inside a sandbox
	Runner = "nimbus-runner" // the stand-in for GitHub's runner, in the demo's image
	NVML   = "nimbus-nvml"   // reads NVIDIA's GPUs; it needs C, and nobody carries it
)

// Finder finds programs. The zero value looks beside the executable and in PATH.
type Finder struct {
	// Embedded holds programs that this one carries; nil for none.
	Embedded fs.FS
	// Dir is where embedded programs are unpacked to, each below a folder
	// named by its digest. It must allow execution.
	Dir string
}

// Find returns the absolute path of a program. Codes: not_found.
func (f Finder) Find(name string) (string, error) {
	if self, err := os.Executable(); err == nil {
		// Symbolic links are followed: a link in /usr/local/bin has its
		// neighbours where it leads to.
		if resolved, err := filepath.EvalSymlinks(self); err == nil {
			self = resolved
		}
		if path := filepath.Join(filepath.Dir(self), name); executable(path) {
			return path, nil
		}
	}
	path, err := f.unpack(name)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return path, err
	}
	if path, err := exec.LookPath(name); err == nil {
		return filepath.Abs(path)
	}
	return "", nimbus.Errorf(nimbus.CodeNotFound, "the program %s is missing", name).
		WithHint("put it beside nimbus, or build with: make build")
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// unpack writes an embedded program to Dir, unless it is there with the same
// content. fs.ErrNotExist means that it is not embedded.
func (f Finder) unpack(name string) (string, error) {
	if f.Embedded == nil {
		return "", fs.ErrNotExist
	}
	content, err := fs.ReadFile(f.Embedded, name)
	if err != nil {
		return "", fmt.Errorf("read embedded program: %w", err)
	}
	sum := sha256.Sum256(content)
	dir := filepath.Join(f.Dir, hex.EncodeToString(sum[:]))
	path := filepath.Join(dir, name)
	if same(path, sum) {
		return path, nil
	}
	// What it lies in may be a data directory that is not there yet, which is for
	// its owner alone.
	if err := errors.Join(os.MkdirAll(filepath.Dir(dir), 0o700), os.MkdirAll(dir, 0o755)); err != nil {
		return "", fmt.Errorf("unpack %s: %w", name, err)
	}
	if err := wholefile.Write(path, content, 0o755); err != nil {
		return "", fmt.Errorf("unpack %s: %w", name, err)
	}
	return path, nil
}

// same tells whether the file has that digest: the folder may have been cut
// off half-way, or been changed.
func same(path string, sum [sha256.Size]byte) bool {
	if !executable(path) {
		return false
	}
	content, err := os.ReadFile(path)
	return err == nil && sha256.Sum256(content) == sum
}
