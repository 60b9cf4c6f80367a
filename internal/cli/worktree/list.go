// Package worktree packs the files of a directory for a job.
package worktree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Bounds. A directory beyond them is refused with what to do about it.
const (
	MaxEntries   = 1_000_000
	maxListBytes = 256 << 20 // of what git answers
	gitTimeout   = 2 * time.Minute
	maxDepth     = 16 // of repositories within repositories
)

// List returns the files that travel, as slash-separated paths below dir,
// sorted: in a git work tree what is tracked and what is new but not ignored,
// elsewhere everything.
func List(ctx context.Context, dir string) ([]string, error) {
	inGit, err := isWorkTree(ctx, dir)
	if err != nil {
		return nil, err
	}
	var names []string
	if inGit {
		names, err = listGit(ctx, dir, 0)
	} else {
		names, err = listAll(ctx, dir)
	}
	if err != nil {
		return nil, err
	}
	if len(names) > MaxEntries {
		return nil, tooMany()
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

func tooMany() error {
	return nimbus.Errorf(nimbus.CodeTooLarge, "there are more than %d files", MaxEntries).
		WithHint("run in a smaller directory, or without files: --no-files")
}

// isWorkTree asks git. Without git on the machine nothing is one.
func isWorkTree(ctx context.Context, dir string) (bool, error) {
	out, err := git(ctx, dir, "rev-parse", "--is-inside-work-tree")
	var exit *exec.ExitError
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return false, nil
	case errors.As(err, &exit):
		// git refuses a repository of another user: taking all its files
		// instead, ignored ones included, is not what was meant.
		if bytes.Contains(exit.Stderr, []byte("dubious ownership")) {
			return false, nimbus.Errorf(nimbus.CodeForbidden, "git does not trust this repository: it belongs to another user").
				WithHint(`git config --global --add safe.directory "$(git rev-parse --show-toplevel 2>/dev/null || pwd)"`)
		}
		return false, nil
	case err != nil:
		return false, err
	}
	return strings.TrimSpace(string(out)) == "true", nil
}

// listGit lists a work tree and the repositories within it, which git names
// as directories.
func listGit(ctx context.Context, dir string, depth int) ([]string, error) {
	if depth > maxDepth {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "there are more than %d repositories within each other at %s", maxDepth, dir)
	}
	out, err := git(ctx, dir, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	if err != nil {
		return nil, fmt.Errorf("list files with git: %w", err)
	}
	var names []string
	for name := range strings.SplitSeq(string(out), "\x00") {
		name = strings.TrimSuffix(name, "/")
		if name == "" {
			continue
		}
		info, err := os.Lstat(filepath.Join(dir, filepath.FromSlash(name)))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // tracked, but deleted
		case err != nil:
			return nil, fmt.Errorf("list files: %w", err)
		case !info.IsDir():
			names = append(names, name)
			continue
		}
		inner, err := listInner(ctx, filepath.Join(dir, filepath.FromSlash(name)), depth+1)
		if err != nil {
			return nil, err
		}
		for _, n := range inner {
			names = append(names, path.Join(name, n))
		}
	}
	return names, nil
}

// listInner lists a submodule, which may not be checked out: an empty folder
// would be taken for a part of the repository around it.
func listInner(ctx context.Context, dir string, depth int) ([]string, error) {
	if _, err := os.Lstat(filepath.Join(dir, ".git")); err != nil {
		return nil, nil //nolint:nilerr // not checked out: nothing to list
	}
	return listGit(ctx, dir, depth)
}

func git(ctx context.Context, dir string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, gitTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	// Its answer is compared: no translation.
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.Output()
	if len(out) > maxListBytes {
		return nil, tooMany()
	}
	return out, err
}

// listAll lists everything; directories too, for some are empty.
func listAll(ctx context.Context, dir string) ([]string, error) {
	var names []string
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if len(names) > MaxEntries {
			return tooMany()
		}
		if name, err := filepath.Rel(dir, p); err == nil && name != "." {
			names = append(names, filepath.ToSlash(name))
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("list files: %w", err)
	}
	return names, nil
}
