package debian

import (
	"archive/tar"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/images/runner"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
)

// GitHubRunner is what takes GitHub's jobs in an image: our stand-in, and
// GitHub's own runner where it can be had.
type GitHubRunner struct {
	StandIn string // the program on this machine that becomes runner.Program
	Release runner.Release
	Fetch   Fetch
}

// Fetch tells what a build does to have GitHub's own runner.
type Fetch int

// The ways.
const (
	FetchCached Fetch = iota // put it in if it was fetched before
	FetchTry                 // fetch it, do without where it can't be reached
	FetchMust                // fetch it or fail
)

// What an image's manifest and runner.Inside say.
const standIn = "stand-in"

func official(r runner.Release) string { return image.OfficialPrefix + r.Version }

// Bounds of a download. GitHub's runner has some 200 MiB.
const (
	connectTimeout = 10 * time.Second
	headerTimeout  = 30 * time.Second
	maxRelease     = 1 << 30
	tellInterval   = 5 * time.Second
)

// archive is where the release is kept once it was fetched and checked.
func (c Config) archive() string {
	return filepath.Join(c.Cache, "runner", c.Runner.Release.SHA256+".tar.gz")
}

// bestRunner is what the image will have inside if all goes well.
func (c Config) bestRunner() string {
	if c.Runner == nil {
		return ""
	}
	if c.Runner.Fetch == FetchCached {
		if _, err := os.Stat(c.archive()); err != nil {
			return standIn
		}
	}
	return official(c.Runner.Release)
}

// fetchRunner makes sure that the release is in the cache and returns what the
// image will have inside.
func (c Config) fetchRunner(ctx context.Context) (string, error) {
	best := c.bestRunner()
	if best == "" || best == standIn {
		return best, nil
	}
	if _, err := os.Stat(c.archive()); err == nil {
		return best, nil
	}
	err := c.download(ctx)
	if c.Runner.Fetch == FetchTry && errors.Is(err, errUnreachable) && ctx.Err() == nil {
		c.Progress(fmt.Sprintf("doing without GitHub's own runner: %v", err))
		return standIn, nil
	}
	return best, err
}

// errUnreachable is a download that did not come. One that isn't what was asked
// for is another matter: it is never done without.
var errUnreachable = errors.New("it can't be fetched")

// download fetches the release and keeps it if its digest is right.
func (c Config) download(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, downloadTimeout)
	defer cancel()
	what := "actions/runner " + c.Runner.Release.Version
	c.Progress("fetching " + what)
	body, err := open(ctx, c.Runner.Release.URL)
	if err != nil {
		return fmt.Errorf("fetch %s: %w", what, err)
	}
	defer body.Close()
	if err := os.MkdirAll(filepath.Dir(c.archive()), 0o755); err != nil {
		return fmt.Errorf("make cache: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(c.archive()), ".fetch-")
	if err != nil {
		return fmt.Errorf("make cache: %w", err)
	}
	defer os.Remove(f.Name())
	h := sha256.New()
	_, err = io.Copy(io.MultiWriter(f, h, c.teller(what)), io.LimitReader(body, maxRelease))
	if err != nil {
		err = fmt.Errorf("%w: %w", errUnreachable, err)
	}
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("fetch %s: %w", what, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != c.Runner.Release.SHA256 {
		return nimbus.Errorf(nimbus.CodeInternal, "what came as %s has SHA-256 %s, not the recipe's", what, got).
			WithHint("try again; if it stays, somebody between here and GitHub changes downloads")
	}
	return os.Rename(f.Name(), c.archive())
}

func open(ctx context.Context, address string) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, fmt.Errorf("request it: %w", err)
	}
	client := http.Client{Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true,
		DialContext:         (&net.Dialer{Timeout: connectTimeout}).DialContext,
		TLSHandshakeTimeout: connectTimeout, ResponseHeaderTimeout: headerTimeout,
	}}
	answer, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnreachable, err)
	}
	if answer.StatusCode != http.StatusOK {
		answer.Body.Close()
		return nil, fmt.Errorf("%w: the server answers %s", errUnreachable, answer.Status)
	}
	return answer.Body, nil
}

// teller tells now and then how much was written to it.
func (c Config) teller(what string) io.Writer {
	total, told := 0, time.Now()
	return writerFunc(func(p []byte) (int, error) {
		total += len(p)
		if time.Since(told) >= tellInterval {
			told = time.Now()
			c.Progress(fmt.Sprintf("fetching %s: %d MiB", what, total>>20))
		}
		return len(p), nil
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// githubRunner puts what was fetched into the image, and says so in it.
func (m *merger) githubRunner(r GitHubRunner, inside, archive string) error {
	dir := strings.TrimPrefix(runner.OfficialDir, "/")
	if err := m.header(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, Uid: runner.UserID, Gid: runner.UserID}); err != nil {
		return err
	}
	if err := m.file(strings.TrimPrefix(runner.Inside, "/"), 0o644, []byte(inside+"\n")); err != nil {
		return err
	}
	if r.StandIn != "" {
		raw, err := os.ReadFile(r.StandIn)
		if err != nil {
			return fmt.Errorf("read a file of the image: %w", err)
		}
		if err := m.file(strings.TrimPrefix(runner.Program, "/"), 0o755, raw); err != nil {
			return err
		}
	}
	if inside != official(r.Release) {
		return nil
	}
	f, err := os.Open(archive)
	if err != nil {
		return fmt.Errorf("open GitHub's runner: %w", err)
	}
	defer f.Close()
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		return fmt.Errorf("read GitHub's runner: %w", err)
	}
	return visitAll(unzipped, func(h *tar.Header, content io.Reader) error { return m.below(dir, runner.UserID, h, content) })
}

// below adds a file of an archive below a folder, as owner's.
func (m *merger) below(dir string, owner int, h *tar.Header, r io.Reader) error {
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeDir, tar.TypeSymlink:
	case tar.TypeLink:
		h.Linkname = path.Join(dir, h.Linkname)
	default:
		return fmt.Errorf("%s is neither file, folder nor link", h.Name)
	}
	name := path.Clean(h.Name)
	if !fs.ValidPath(name) {
		return fmt.Errorf("%q leads out of its archive", h.Name)
	}
	h.Name = path.Join(dir, name)
	if h.Typeflag == tar.TypeDir {
		h.Name += "/"
	}
	h.Uid, h.Gid = owner, owner
	return m.take(h, r)
}

// fingerprint is what of the runner decides the image, whether GitHub's own
// can be had or not.
func (r *GitHubRunner) fingerprint() ([]any, error) {
	if r == nil {
		return nil, nil
	}
	raw, err := os.ReadFile(cmp.Or(r.StandIn, os.DevNull))
	if err != nil {
		return nil, fmt.Errorf("read a file of the image: %w", err)
	}
	return []any{sha256.Sum256(raw), r.Release.SHA256, r.Release.Packages}, nil
}
