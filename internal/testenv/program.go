package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

const module = "github.com/nimbus-ci/nimbus/"

// removeAtEnd removes a folder once its own standard input is closed, whose
// other end is held by the test process, however that ends.
const removeAtEnd = `read -r _
rm -rf "$1"`

// Program returns the path of a static program of this module, named by its
// package as in "cmd/nimbus-shim". It is built by the first call in a test
// process: linking it for every test took more than many a test. It is everyone's,
// so who changes it changes a copy. It is removed when the process has ended.
func Program(t testing.TB, pkg string) string {
	t.Helper()
	file, err := built.program(pkg)
	if err != nil {
		t.Fatalf("build %s: %v", pkg, err)
	}
	return file
}

var built programs

// programs are what this test process has built.
type programs struct {
	mu    sync.Mutex
	dir   string // "" until there is one
	alive *os.File
	paths map[string]string
}

func (p *programs) program(pkg string) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if file, ok := p.paths[pkg]; ok {
		return file, nil
	}
	if err := p.open(); err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-o", p.dir+"/", module+pkg)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	p.paths[pkg] = filepath.Join(p.dir, path.Base(pkg))
	return p.paths[pkg], nil
}

// open makes the folder, and has another process wait to remove it.
func (p *programs) open() error {
	if p.dir != "" {
		return nil
	}
	dir, err := os.MkdirTemp("", "nimbus-programs-")
	if err != nil {
		return err
	}
	ours, theirs, err := pipe()
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	keeper := exec.Command("/bin/sh", "-c", removeAtEnd, "sh", dir)
	keeper.Stdin, keeper.Dir = theirs, "/"
	keeper.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // an interrupt of the tests leaves it alive to clean up
	err = keeper.Start()
	if err := errors.Join(err, theirs.Close()); err != nil {
		return errors.Join(err, ours.Close(), os.RemoveAll(dir))
	}
	p.dir, p.alive, p.paths = dir, ours, map[string]string{}
	return nil
}
