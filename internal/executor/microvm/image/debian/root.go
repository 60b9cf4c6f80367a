package debian

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus/images/runner"
)

// writeTimeout bounds the making of one root file system.
const writeTimeout = 10 * time.Minute

// skipped is what no job reads; the licences stay (usr/share/doc/*/copyright).
var skipped = []string{
	"usr/share/man/", "usr/share/info/", "usr/share/locale/", "usr/share/lintian/", "usr/share/bash-completion/",
	"usr/share/doc-base/", "usr/share/bug/", "usr/share/menu/",
}

// merged are the folders that are links into /usr on every current Debian,
// while packages still have files in them.
var merged = []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"}

const groupFile = "etc/group"

// Text files that maintainer scripts and installers would have made.
var texts = map[string]string{
	"etc/passwd": "root:x:0:0:root:/root:/bin/bash\n" +
		"daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n" +
		"runner:x:1001:1001:runner:/home/runner:/bin/bash\n" +
		"nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
	groupFile:           "root:x:0:\ndaemon:x:1:\ntty:x:5:\nmail:x:8:\nrunner:x:1001:\nnogroup:x:65534:\n",
	"etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
	"etc/hosts":         "127.0.0.1 localhost\n",
	"etc/hostname":      "sandbox\n",
	"etc/resolv.conf":   "",
	"etc/machine-id":    "",
	"etc/profile":       "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nexport PATH\n",
}

// links are what update-alternatives would have made.
var links = map[string]string{
	"usr/bin/awk": "mawk", "usr/bin/nawk": "mawk", "usr/bin/which": "which.debianutils",
	"etc/mtab": "/proc/self/mounts",
}

// folders are mount points and such, with their modes.
var folders = map[string]int64{
	"proc": 0o755, "sys": 0o755, "dev": 0o755, "run": 0o755, "mnt": 0o755, "opt": 0o755, "srv": 0o755,
	"root": 0o700, "tmp": 0o1777, "var/tmp": 0o1777, "home/runner": 0o755, "usr/local/bin": 0o755, "usr/local/sbin": 0o755,
}

// parts are what a root file system is made of, beside what its Config says.
type parts struct {
	packages []string // files
	tree     string   // folder of npm's packages, "" for none
	inside   string   // which runner of GitHub's
	kernel   kernel
}

// writeRoot merges the packages into one squashfs, with owners and modes as
// the packages have them.
func (c Config) writeRoot(ctx context.Context, p parts, dst string) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	// LZ4 is read by an emulated machine in half of zstd's time.
	cmd := exec.CommandContext(ctx, "tar2sqfs", "--quiet", "--force", "--compressor", "lz4", dst)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("write root file system: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("write root file system: %w", err)
	}
	merge := &merger{out: tar.NewWriter(in), seen: map[string]bool{}}
	err = errors.Join(merge.all(ctx, c, p), merge.out.Close(), in.Close())
	if waitErr := cmd.Wait(); waitErr != nil {
		return fmt.Errorf("write root file system: tar2sqfs: %w: %s", waitErr, tail(stderr.String()))
	}
	if err != nil {
		return fmt.Errorf("write root file system: %w", err)
	}
	return nil
}

// merger writes one tar stream of many.
type merger struct {
	out  *tar.Writer
	seen map[string]bool
	// certificates are those that the package brought, for the one bundle that
	// programs read.
	certificates bytes.Buffer
}

func (m *merger) all(ctx context.Context, c Config, p parts) error {
	if err := m.skeleton(c); err != nil {
		return err
	}
	for _, deb := range p.packages {
		if err := eachFile(ctx, deb, m.add); err != nil {
			return err
		}
	}
	if m.certificates.Len() > 0 {
		if err := m.file("etc/ssl/certs/ca-certificates.crt", 0o644, m.certificates.Bytes()); err != nil {
			return err
		}
	}
	if c.Runner != nil {
		if err := m.githubRunner(*c.Runner, p.inside, c.archive()); err != nil {
			return err
		}
	}
	if p.tree != "" {
		if err := m.tree(p.tree, c.Node.Dir); err != nil {
			return err
		}
	}
	if err := m.modules(c, p.kernel); err != nil {
		return err
	}
	for _, f := range c.Files {
		raw, err := f.read()
		if err != nil {
			return err
		}
		if err := m.file(strings.TrimPrefix(path.Clean(f.Path), "/"), cmp.Or(f.Mode, 0o755), raw); err != nil {
			return err
		}
	}
	return nil
}

// modules adds those that are loaded when they are needed, and their order.
func (m *merger) modules(c Config, k kernel) error {
	if len(c.Modules) == 0 {
		return nil
	}
	order, err := k.later(c.Modules)
	if err != nil {
		return err
	}
	dir := strings.TrimPrefix(c.ModulesDir, "/") + "/"
	var list strings.Builder
	for _, name := range order {
		if err := m.file(dir+name+".ko", 0o644, k.modules[name]); err != nil {
			return err
		}
		fmt.Fprintf(&list, "%s.ko\n", name)
	}
	return m.file(dir+"order", 0o644, []byte(list.String()))
}

// skeleton comes first, so that it wins over what packages have.
func (m *merger) skeleton(c Config) error {
	for _, dir := range merged {
		if err := m.header(&tar.Header{Typeflag: tar.TypeSymlink, Name: dir, Linkname: "usr/" + dir, Mode: 0o777}); err != nil {
			return err
		}
	}
	for name, mode := range folders {
		h := &tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}
		if strings.HasPrefix(name, "home/") {
			h.Uid, h.Gid = runner.UserID, runner.UserID
		}
		if err := m.header(h); err != nil {
			return err
		}
	}
	for name, target := range links {
		if err := m.header(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Links)) {
		h := &tar.Header{Typeflag: tar.TypeSymlink, Name: strings.TrimPrefix(name, "/"), Linkname: c.Links[name], Mode: 0o777}
		if err := m.header(h); err != nil {
			return err
		}
	}
	for name, text := range texts {
		if name == groupFile {
			text += strings.Join(c.Groups, "")
		}
		if err := m.file(name, 0o644, []byte(text)); err != nil {
			return err
		}
	}
	return nil
}

// add takes one file of a package over.
func (m *merger) add(h *tar.Header, r io.Reader) error {
	h.Name = unmerge(h.Name)
	if h.Typeflag == tar.TypeLink {
		h.Linkname = unmerge(strings.TrimPrefix(h.Linkname, "./"))
	}
	if unwanted(h.Name) {
		return nil
	}
	if strings.HasPrefix(h.Name, "usr/share/ca-certificates/") && h.Typeflag == tar.TypeReg {
		var certificate bytes.Buffer
		if _, err := io.Copy(&certificate, r); err != nil {
			return fmt.Errorf("read %s: %w", h.Name, err)
		}
		m.certificates.Write(certificate.Bytes())
		r = &certificate
	}
	return m.take(h, r)
}

// take writes a file unless there is one of its name.
func (m *merger) take(h *tar.Header, r io.Reader) error {
	if m.seen[strings.TrimSuffix(h.Name, "/")] {
		return nil
	}
	if err := m.header(h); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	if _, err := io.Copy(m.out, r); err != nil {
		return fmt.Errorf("copy %s: %w", h.Name, err)
	}
	return nil
}

func (m *merger) file(name string, mode int64, data []byte) error {
	if err := m.header(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data))}); err != nil {
		return err
	}
	if _, err := m.out.Write(data); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// header writes one, in the format that holds it.
func (m *merger) header(h *tar.Header) error {
	m.seen[strings.TrimSuffix(h.Name, "/")] = true
	h.Format = tar.FormatUnknown
	h.Uname, h.Gname = "", ""
	if err := m.out.WriteHeader(h); err != nil {
		return fmt.Errorf("write %s: %w", h.Name, err)
	}
	return nil
}

// unmerge moves a path to where the links of merged lead.
func unmerge(name string) string {
	if first, _, _ := strings.Cut(name, "/"); slices.Contains(merged, first) {
		return "usr/" + name
	}
	return name
}

func unwanted(name string) bool {
	if strings.HasPrefix(name, "usr/share/doc/") {
		return !strings.HasSuffix(name, "/copyright") && !strings.HasSuffix(name, "/")
	}
	return slices.ContainsFunc(skipped, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

// eachFile calls visit for every entry of a package, without leading "./".
func eachFile(ctx context.Context, deb string, visit func(*tar.Header, io.Reader) error) error {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("read package: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("read package: %w", err)
	}
	err = visitAll(out, visit)
	_, drainErr := io.Copy(io.Discard, out) // or it would never end
	if waitErr := cmd.Wait(); waitErr != nil {
		return fmt.Errorf("read package: dpkg-deb: %w: %s", waitErr, tail(stderr.String()))
	}
	return errors.Join(err, drainErr)
}

func visitAll(r io.Reader, visit func(*tar.Header, io.Reader) error) error {
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read package: %w", err)
		}
		h.Name = strings.TrimPrefix(h.Name, "./")
		if h.Name == "" {
			continue // the root itself
		}
		if err := visit(h, in); err != nil {
			return err
		}
	}
}
