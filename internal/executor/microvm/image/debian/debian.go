// Package debian makes images from Debian packages, without root: packages are
// resolved, fetched and checked by apt in folders of its own, unpacked as tar
// streams and written as squashfs. No maintainer script runs; the little that
// they would have done is done here.
package debian

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
	aievalrunner "github.com/nimbus-ci/nimbus/images/ai-eval-runner"
	"github.com/nimbus-ci/nimbus/images/docker"
	"github.com/nimbus-ci/nimbus/images/runner"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/durable"
)

// version changes whenever the same packages would give another image.
const version = 2

// arch is the only one whose kernel is known how to boot.
const arch = "amd64"

// Config says what to make.
type Config struct {
	Store    image.Store
	Name     string
	Packages []string
	// Files are put into the image, at absolute paths.
	Files []File
	// Links are symbolic links, from absolute paths to where they lead.
	Links map[string]string
	// Groups are lines of /etc/group.
	Groups []string
	// Modules are those of the kernel that lie in ModulesDir, beside what they
	// depend on, for who needs them. Those of every machine are not among them.
	Modules    []string
	ModulesDir string
	// Node is a tree of npm packages; nil for none.
	Node *NodeTree
	// Runner takes GitHub's jobs; nil for none.
	Runner *GitHubRunner
	// Cache keeps fetched packages; "" means .cache in the store.
	Cache string
	// Progress is told in a few words what is being done. It may be nil.
	Progress func(what string)
}

// File is a program, or some other file, that goes into the image.
type File struct {
	Path    string // in the image
	Mode    int64  // 0 is a program's
	Source  string // on this machine, "" for one whose content is given
	Content []byte
}

func (f File) read() ([]byte, error) {
	if f.Source == "" {
		return f.Content, nil
	}
	raw, err := os.ReadFile(f.Source)
	if err != nil {
		return nil, fmt.Errorf("read a file of the image: %w", err)
	}
	return raw, nil
}

// Runner is the configuration of the image "runner"; program is the file on
// this machine that becomes runner.Program, "" for none.
func Runner(store image.Store, program string, fetch Fetch) Config {
	return Config{
		Store: store, Name: nimbus.DefaultImage, Packages: runner.Packages(),
		Runner: &GitHubRunner{StandIn: program, Release: runner.OfficialRelease(), Fetch: fetch},
	}
}

// AIEvalRunner is that of the image "ai-eval-runner": all that runner has, and
// more.
func AIEvalRunner(store image.Store, program string, fetch Fetch) Config {
	c := Runner(store, program, fetch)
	c.Name, c.Packages = aievalrunner.Name, slices.Concat(c.Packages, aievalrunner.Packages())
	programs := aievalrunner.Programs()
	for _, path := range slices.Sorted(maps.Keys(programs)) {
		c.Files = append(c.Files, File{Path: path, Content: programs[path]})
	}
	c.Links = aievalrunner.Links()
	c.Node = &NodeTree{Dir: aievalrunner.Dir, Manifest: aievalrunner.Manifest(), Lock: aievalrunner.Lock()}
	return c
}

// Docker is that of the image "docker": all that runner has, and a docker
// daemon.
func Docker(store image.Store, program string, fetch Fetch) Config {
	c := Runner(store, program, fetch)
	c.Name, c.Packages = docker.Name, slices.Concat(c.Packages, docker.Packages())
	c.Files = []File{{Path: docker.SettingsFile, Mode: 0o644, Content: docker.Settings()}}
	c.Links, c.Groups = docker.Links(), []string{docker.Group}
	c.Modules, c.ModulesDir = docker.Modules(), docker.ModulesDir
	return c
}

// Names are the images that are known how to build.
func Names() []string { return []string{nimbus.DefaultImage, aievalrunner.Name, docker.Name} }

// Named is the configuration of an image that is known how to build. Codes:
// not_found.
func Named(name string, store image.Store, program string, fetch Fetch) (Config, error) {
	switch name {
	case nimbus.DefaultImage:
		return Runner(store, program, fetch), nil
	case aievalrunner.Name:
		return AIEvalRunner(store, program, fetch), nil
	case docker.Name:
		return Docker(store, program, fetch), nil
	}
	return Config{}, nimbus.Errorf(nimbus.CodeNotFound, "there is no recipe for an image %q", name).
		WithHint("there are recipes for %s", strings.Join(Names(), ", "))
}

// Build makes the image, unless there is one of the same recipe already. One
// build at a time is made per store; others wait.
func Build(ctx context.Context, c Config) (image.Image, error) {
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
	if c.Cache == "" {
		c.Cache = filepath.Join(c.Store.Dir, ".cache")
	}
	var err error
	if c.Cache, err = filepath.Abs(c.Cache); err != nil { // apt would take it for one below /
		return image.Image{}, fmt.Errorf("find cache: %w", err)
	}
	recipe, err := c.recipe()
	if err != nil {
		return image.Image{}, err
	}
	if img, ok := c.made(recipe, c.bestRunner()); ok {
		return img, nil
	}
	if err := c.checkTools(); err != nil {
		return image.Image{}, err
	}
	unlock, err := lock(ctx, c.Cache)
	if err != nil {
		return image.Image{}, err
	}
	defer unlock()
	inside, err := c.fetchRunner(ctx)
	if err != nil {
		return image.Image{}, err
	}
	if img, ok := c.made(recipe, inside); ok {
		return img, nil // somebody else just made it, or nothing better can be made
	}
	return c.build(ctx, recipe, inside)
}

// made finds an image that was made by the recipe, with that runner inside or a
// better one, and is still what was made.
func (c Config) made(recipe, inside string) (image.Image, bool) {
	img, err := c.Store.Open(c.Name)
	if err != nil || img.Recipe != recipe || img.Runner != inside && inside != standIn {
		return image.Image{}, false
	}
	if err := img.Verify(); err != nil {
		c.Progress(err.Error())
		return image.Image{}, false
	}
	return img, true
}

func (c Config) build(ctx context.Context, recipe, inside string) (image.Image, error) {
	a := apt{dir: c.Cache, progress: c.Progress}
	if err := a.update(ctx); err != nil {
		return image.Image{}, err
	}
	names := c.Packages
	if c.Runner != nil && inside == official(c.Runner.Release) {
		names = slices.Concat(names, c.Runner.Release.Packages)
	}
	packages, err := a.fetch(ctx, names)
	if err != nil {
		return image.Image{}, err
	}
	deb, err := a.fetchKernel(ctx)
	if err != nil {
		return image.Image{}, err
	}
	tree, err := c.fetchNode(ctx)
	if err != nil {
		return image.Image{}, err
	}
	modules, err := c.Node.packages()
	if err != nil {
		return image.Image{}, err
	}
	draft, err := c.Store.Draft()
	if err != nil {
		return image.Image{}, err
	}
	defer draft.Discard()
	c.Progress("unpacking the kernel")
	k, err := readKernel(ctx, deb)
	if err != nil {
		return image.Image{}, err
	}
	if err := k.write(draft.Kernel(), draft.Modules()); err != nil {
		return image.Image{}, err
	}
	c.Progress(fmt.Sprintf("writing the root file system from %d packages", len(packages)))
	if err := c.writeRoot(ctx, parts{packages, tree, inside, k}, draft.Root()); err != nil {
		return image.Image{}, err
	}
	return draft.Publish(image.Manifest{
		Name: c.Name, Arch: arch, Recipe: recipe, BuiltAt: time.Now().UTC(),
		Kernel: packageName(deb), Packages: packageNames(packages), NPM: modules, Runner: inside,
	})
}

// recipe is a digest of all that decides what the image holds but the versions
// of the packages, and whether GitHub's own runner could be had: a rebuild is asked for, it doesn't just happen.
func (c Config) recipe() (string, error) {
	h := sha256.New()
	enc := json.NewEncoder(h)
	github, err := c.Runner.fingerprint()
	if err != nil {
		return "", err
	}
	for _, v := range []any{version, arch, c.Packages, modules, github} {
		if err := enc.Encode(v); err != nil {
			return "", fmt.Errorf("digest recipe: %w", err)
		}
	}
	if c.Node != nil || len(c.Links) > 0 {
		if err := enc.Encode([]any{c.Node, c.Links, unread}); err != nil {
			return "", fmt.Errorf("digest recipe: %w", err)
		}
	}
	if len(c.Modules) > 0 || len(c.Groups) > 0 {
		if err := enc.Encode([]any{c.Modules, c.ModulesDir, c.Groups}); err != nil {
			return "", fmt.Errorf("digest recipe: %w", err)
		}
	}
	for _, f := range c.Files {
		raw, err := f.read()
		if err != nil {
			return "", err
		}
		if err := enc.Encode([]any{f.Path, sha256.Sum256(raw)}); err != nil {
			return "", fmt.Errorf("digest recipe: %w", err)
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// checkTools tells in one line what this machine lacks to build images.
func (c Config) checkTools() error {
	var missing []string
	needed := map[string]string{"apt-get": "apt", "dpkg-deb": "dpkg", "tar2sqfs": "squashfs-tools-ng"}
	if c.Node != nil {
		needed["npm"] = "npm"
	}
	for program, pkg := range needed {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, pkg)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	return nimbus.Errorf(nimbus.CodeUnavailable, "to build images this machine lacks: %s", strings.Join(missing, ", ")).
		WithHint("on Debian: apt-get install %s", strings.Join(missing, " "))
}

// lock waits for this machine's other builders.
func lock(ctx context.Context, dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make cache: %w", durable.OrReadOnly(err))
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock cache: %w", durable.OrReadOnly(err))
	}
	const interval = 200 * time.Millisecond
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("lock cache: %w", err)
		}
		select {
		case <-time.After(interval):
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for another build: %w", context.Cause(ctx))
		}
	}
}

// packageName is what a package file's name tells: name_version.
func packageName(path string) string {
	name := strings.TrimSuffix(filepath.Base(path), ".deb")
	if i := strings.LastIndexByte(name, '_'); i > 0 {
		name = name[:i]
	}
	return strings.ReplaceAll(name, "%3a", ":")
}

func packageNames(paths []string) []string {
	names := make([]string, len(paths))
	for i, p := range paths {
		names[i] = packageName(p)
	}
	return names
}
