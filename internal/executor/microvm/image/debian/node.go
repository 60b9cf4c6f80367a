package debian

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// NodeTree is a folder of npm packages in an image.
type NodeTree struct {
	Dir string // in the image
	// Manifest and Lock are package.json and package-lock.json. npm checks each
	// package against the lock's digest; none of their scripts is run, and what
	// they call optional is left out.
	Manifest, Lock []byte
}

// installTimeout bounds the fetching and unpacking of a tree.
const installTimeout = 20 * time.Minute

// unread are the ends of names of files that no program reads when it runs. The
// first is npm's own note, which has the builder's registry in it.
var unread = []string{".package-lock.json", ".d.ts", ".d.mts", ".d.cts", ".map", ".md", ".markdown"}

// fetchNode has npm install the tree in the cache, and returns the folder.
func (c Config) fetchNode(ctx context.Context) (string, error) {
	if c.Node == nil {
		return "", nil
	}
	all := filepath.Join(c.Cache, "node", c.Name)
	sum := sha256.Sum256(slices.Concat(c.Node.Manifest, []byte{0}, c.Node.Lock))
	dir := filepath.Join(all, hex.EncodeToString(sum[:12]))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	c.Progress("installing npm packages")
	if err := os.RemoveAll(all); err != nil { // of an older lock, or cut off
		return "", fmt.Errorf("clear cache: %w", err)
	}
	draft := filepath.Join(all, ".new")
	if err := os.MkdirAll(draft, 0o755); err != nil {
		return "", fmt.Errorf("make cache: %w", err)
	}
	for name, content := range map[string][]byte{"package.json": c.Node.Manifest, "package-lock.json": c.Node.Lock} {
		if err := os.WriteFile(filepath.Join(draft, name), content, 0o644); err != nil {
			return "", fmt.Errorf("make cache: %w", err)
		}
	}
	if err := c.npm(ctx, draft); err != nil {
		return "", fmt.Errorf("install npm packages: %w", err)
	}
	return dir, os.Rename(draft, dir)
}

func (c Config) npm(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, installTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--omit=dev", "--omit=optional", "--no-audit", "--no-fund",
		"--no-update-notifier", "--loglevel=error", "--os=linux", "--cpu=x64", "--libc=glibc", "--cache", filepath.Join(c.Cache, "npm"))
	cmd.Dir = dir
	var words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &words, &words
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("npm ci: %w: %s", err, tail(words.String()))
	}
	return nil
}

// packages are what the lock installs: name@version.
func (n *NodeTree) packages() ([]string, error) {
	if n == nil {
		return nil, nil
	}
	var lock struct {
		Packages map[string]struct {
			Version  string `json:"version"`
			Dev      bool   `json:"dev"`
			Optional bool   `json:"optional"`
		} `json:"packages"`
	}
	if err := json.Unmarshal(n.Lock, &lock); err != nil {
		return nil, fmt.Errorf("read package-lock.json: %w", err)
	}
	var found []string
	for path, p := range lock.Packages {
		const modules = "node_modules/"
		if i := strings.LastIndex(path, modules); i >= 0 && !p.Dev && !p.Optional {
			found = append(found, path[i+len(modules):]+"@"+p.Version)
		}
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

// tree adds a folder of this machine, as root's. Times are left out, so that
// equal folders give equal bytes.
func (m *merger) tree(from, to string) error {
	to = strings.TrimPrefix(to, "/")
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("read tree: %w", err)
		}
		if slices.ContainsFunc(unread, func(end string) bool { return strings.HasSuffix(d.Name(), end) }) && !d.IsDir() {
			return nil
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return fmt.Errorf("read tree: %w", err)
		}
		return m.treeEntry(path, filepath.Join(to, rel), d)
	})
}

func (m *merger) treeEntry(path, name string, d fs.DirEntry) error {
	switch d.Type() {
	case fs.ModeDir:
		return m.header(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755})
	case fs.ModeSymlink:
		target, err := os.Readlink(path)
		if err != nil {
			return fmt.Errorf("read tree: %w", err)
		}
		if filepath.IsAbs(target) {
			return fmt.Errorf("%s leads out of its tree", path)
		}
		return m.header(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777})
	case 0:
	default:
		return fmt.Errorf("%s is neither file, folder nor link", path)
	}
	info, err := d.Info()
	if err != nil {
		return fmt.Errorf("read tree: %w", err)
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read tree: %w", err)
	}
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: info.Size()}
	if info.Mode().Perm()&0o111 != 0 {
		h.Mode = 0o755
	}
	return errors.Join(m.take(h, f), f.Close())
}
