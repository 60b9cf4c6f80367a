package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Bounds of what apt does.
const (
	updateTimeout   = 5 * time.Minute
	downloadTimeout = 10 * time.Minute
	tailBytes       = 2 << 10 // of its words, in an error
)

// kernelPackage depends on the current kernel, whose name has its version.
const kernelPackage = "linux-image-cloud-amd64"

// apt fetches packages as the machine's own configuration says (mirrors,
// proxies, keys), but keeps its state and files in dir, and knows of nothing
// that is installed.
type apt struct {
	dir      string
	progress func(string)
}

// Folders below dir.
func (a apt) archives() string { return filepath.Join(a.dir, "archives") }
func (a apt) empty() string    { return filepath.Join(a.dir, "empty") }
func (a apt) state() string    { return filepath.Join(a.dir, "state") }

// update makes the folders and refreshes the lists of packages.
func (a apt) update(ctx context.Context) error {
	for _, dir := range []string{a.archives(), a.empty(), a.state()} {
		if err := os.MkdirAll(filepath.Join(dir, "partial"), 0o755); err != nil {
			return fmt.Errorf("make cache: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(a.state(), "status"), nil, 0o644); err != nil {
		return fmt.Errorf("make cache: %w", err)
	}
	a.progress("reading the lists of packages")
	if _, err := a.run(ctx, updateTimeout, "", "apt-get", "update"); err != nil {
		return fmt.Errorf("refresh the lists of packages: %w", err)
	}
	return nil
}

// fetch returns the files of the named packages and of all that they need,
// checked by apt against the signed lists.
func (a apt) fetch(ctx context.Context, names []string) ([]string, error) {
	install := slices.Concat([]string{"install", "--yes", "--no-install-recommends", "--download-only"}, names)
	// Only what isn't in the cache would be named.
	listing, err := a.run(ctx, updateTimeout, "", "apt-get",
		append(install, "--print-uris", "--quiet=2", "--option", "Dir::Cache::archives="+a.empty())...)
	if err != nil {
		return nil, fmt.Errorf("resolve packages: %w", err)
	}
	var files []string
	for line := range strings.Lines(listing) {
		// 'URI' FILE SIZE HASH
		if fields := strings.Fields(line); len(fields) >= 3 && strings.HasPrefix(line, "'") {
			files = append(files, filepath.Join(a.archives(), filepath.Base(fields[1])))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("resolve packages: apt named none: %s", tail(listing))
	}
	a.progress(fmt.Sprintf("fetching %d packages", len(files)))
	if _, err := a.run(ctx, downloadTimeout, "", "apt-get", install...); err != nil {
		return nil, fmt.Errorf("fetch packages: %w", err)
	}
	return files, nil
}

// fetchKernel returns the file of the current kernel's package.
func (a apt) fetchKernel(ctx context.Context) (string, error) {
	name, err := a.kernelName(ctx)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(a.dir, "kernel")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make folder of the kernel: %w", err)
	}
	a.progress("fetching " + name)
	// It leaves a file alone that is there and whole.
	if _, err := a.run(ctx, downloadTimeout, dir, "apt-get", "download", name); err != nil {
		return "", fmt.Errorf("fetch the kernel: %w", err)
	}
	found, err := filepath.Glob(filepath.Join(dir, name+"_*.deb"))
	if err != nil || len(found) == 0 {
		return "", errors.New("fetch the kernel: apt brought none")
	}
	return newest(found), nil
}

func newest(paths []string) string {
	return slices.MaxFunc(paths, func(a, b string) int { return modified(a).Compare(modified(b)) })
}

// modified is the zero time for what can't be read.
func modified(path string) time.Time {
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

func (a apt) kernelName(ctx context.Context) (string, error) {
	out, err := a.run(ctx, updateTimeout, "", "apt-cache", "depends", kernelPackage)
	if err != nil {
		return "", fmt.Errorf("find the kernel: %w", err)
	}
	for line := range strings.Lines(out) {
		_, name, _ := strings.Cut(strings.TrimSpace(line), "Depends: ")
		if strings.HasPrefix(name, "linux-image-") {
			return name, nil
		}
	}
	return "", fmt.Errorf("find the kernel: %s names none; images are built on Debian 12", kernelPackage)
}

// run runs one of apt's programs in folder cwd and returns what it wrote to
// stdout.
func (a apt) run(ctx context.Context, timeout time.Duration, cwd, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	// What args say of the same comes later and wins.
	cmd := exec.CommandContext(ctx, program, slices.Concat([]string{
		"--option", "Dir::State=" + a.state(),
		"--option", "Dir::State::status=" + filepath.Join(a.state(), "status"),
		"--option", "Dir::Cache=" + a.dir,
		"--option", "Dir::Cache::archives=" + a.archives(),
		"--option", "APT::Sandbox::User=root", // its other user can't read folders of ours
		"--option", "Acquire::Retries=3",
	}, args)...)
	cmd.Dir = cwd
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", program, args[0], err, tail(stderr.String()))
	}
	return stdout.String(), nil
}

func tail(s string) string {
	return strings.TrimSpace(s[max(0, len(s)-tailBytes):])
}
