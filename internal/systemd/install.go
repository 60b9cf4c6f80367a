package systemd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/wholefile"
)

// Agent is what is installed.
type Agent struct {
	Root      string    // of the machine; another than / is an image of one, in which nothing is started
	Program   string    // to be the service's, copied
	NVML      string    // what reads GPUs, copied where they are used; none where it isn't to be had
	JoinToken []byte    // none for a host that has joined
	Variables Variables // settings that were given; those that are there stay
}

// File is one that an installation wrote, or would write.
type File struct {
	Path   string      `json:"path"` // below the root
	Change string      `json:"change"`
	Text   string      `json:"text,omitempty"` // none of programs and secrets
	Mode   fs.FileMode `json:"-"`

	content []byte
	source  string // is copied instead of content
}

// The changes.
const (
	Made    = "new"
	Changed = "changed"
	Same    = "unchanged"
)

// Files are what an installation consists of, compared with what is there.
func (a Agent) Files() ([]File, error) {
	settings, err := a.Settings()
	if err != nil {
		return nil, err
	}
	text, err := settings.encode()
	if err != nil {
		return nil, err
	}
	service, err := unit(strings.Split(settings["NIMBUS_EXECUTORS"], ","))
	if err != nil {
		return nil, err
	}
	files := []File{
		{Path: Program, Mode: 0o755, source: a.Program},
		{Path: Settings, Mode: 0o600, content: text, Text: string(text)},
		{Path: sysctlPath, Mode: 0o644, content: sysctls, Text: string(sysctls)},
		{Path: modulesPath, Mode: 0o644, content: modules, Text: string(modules)},
		{Path: unitPath, Mode: 0o644, content: service, Text: string(service)},
	}
	if a.NVML != "" && slices.Contains(strings.Split(settings["NIMBUS_EXECUTORS"], ","), nimbus.ExecutorGPU) {
		files = append(files, File{Path: NVML, Mode: 0o755, source: a.NVML})
	}
	if len(a.JoinToken) > 0 {
		files = append(files, File{Path: JoinToken, Mode: 0o600, content: a.JoinToken})
	}
	for i := range files {
		if files[i].Change, err = a.change(files[i]); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// Settings are those of before and over them those that were given.
func (a Agent) Settings() (Variables, error) {
	v := Variables{}
	text, err := os.ReadFile(a.path(Settings))
	switch {
	case err == nil:
		if v, err = decode(text); err != nil {
			return nil, err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("read settings: %w", err)
	}
	maps.Copy(v, a.Variables)
	if v["NIMBUS_SERVER"] == "" {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "which control plane the agent is for isn't said").WithHint("--server https://nimbus.example.com")
	}
	if v["NIMBUS_EXECUTORS"] == "" {
		v["NIMBUS_EXECUTORS"] = nimbus.ExecutorMicroVM
	}
	if _, err := os.Stat(a.path(JoinToken)); err == nil || len(a.JoinToken) > 0 {
		v["NIMBUS_JOIN_TOKEN_FILE"] = JoinToken
	} else {
		delete(v, "NIMBUS_JOIN_TOKEN_FILE") // it was taken away with the service
	}
	v["NIMBUS_DATA"] = Data
	return v, nil
}

func (a Agent) path(p string) string { return filepath.Join(a.Root, p) }

func (a Agent) change(f File) (string, error) {
	there, err := os.Open(a.path(f.Path))
	if errors.Is(err, fs.ErrNotExist) {
		return Made, nil
	}
	if err != nil {
		return "", fmt.Errorf("compare %s: %w", f.Path, err)
	}
	defer there.Close()
	wanted, err := f.open()
	if err != nil {
		return "", err
	}
	defer wanted.Close()
	same, err := equal(there, wanted)
	if err != nil {
		return "", fmt.Errorf("compare %s: %w", f.Path, err)
	}
	if same {
		return Same, nil
	}
	return Changed, nil
}

func (f File) open() (io.ReadCloser, error) {
	if f.source == "" {
		return io.NopCloser(bytes.NewReader(f.content)), nil
	}
	r, err := os.Open(f.source)
	if err != nil {
		return nil, fmt.Errorf("read the program: %w", err)
	}
	return r, nil
}

// equal compares two readers to their ends.
func equal(a, b io.Reader) (bool, error) {
	const chunk = 64 << 10
	x, y := make([]byte, chunk), make([]byte, chunk)
	for {
		n, errA := io.ReadFull(a, x)
		m, errB := io.ReadFull(b, y)
		if !bytes.Equal(x[:n], y[:m]) {
			return false, nil
		}
		endA, endB := ended(errA), ended(errB)
		if endA || endB {
			return endA && endB, nil
		}
		if err := errors.Join(errA, errB); err != nil {
			return false, err
		}
	}
}

func ended(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

// Write puts files in their places, each whole or not at all, and has the
// service start with the machine.
func (a Agent) Write(files []File) error {
	for _, f := range files {
		if f.Change == Same {
			continue
		}
		if err := a.write(f); err != nil {
			return fmt.Errorf("install %s: %w", f.Path, err)
		}
	}
	wants := a.path(wantedPath)
	if err := os.MkdirAll(filepath.Dir(wants), 0o755); err != nil {
		return fmt.Errorf("enable the service: %w", err)
	}
	if err := os.Symlink(unitPath, wants); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("enable the service: %w", err)
	}
	return nil
}

func (a Agent) write(f File) error {
	path := a.path(f.Path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	from, err := f.open()
	if err != nil {
		return err
	}
	defer from.Close()
	return wholefile.Copy(path, from, f.Mode)
}

// Bounds of what systemd is asked to do.
const (
	commandTimeout = 30 * time.Second
	maxOutput      = 2000 // characters of a command's complaint
)

// command runs one of the machine's commands.
func command(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		said := strings.TrimSpace(string(out))
		return "", fmt.Errorf("%s %s: %w: %.*s", name, strings.Join(args, " "), err, maxOutput, said)
	}
	return string(out), nil
}

// Runs tells whether systemd runs this machine.
func Runs() bool {
	_, err := os.Stat("/run/systemd/system") // see sd_booted(3)
	return err == nil
}

// MakeUser makes the user of an agent without rights, who may read his token.
func MakeUser(ctx context.Context) error {
	if _, err := command(ctx, "getent", "passwd", User); err != nil {
		_, err := command(ctx, "useradd", "--system", "--user-group", "--home-dir", Data, "--shell", "/usr/sbin/nologin", User)
		if err != nil {
			return err
		}
	}
	if _, err := os.Stat(JoinToken); err != nil {
		return nil //nolint:nilerr // a host that has joined has none
	}
	_, err := command(ctx, "chown", User+":", JoinToken)
	return err
}

// Start has the service run what is installed. An agent that runs is replaced;
// its jobs go on.
func Start(ctx context.Context) error {
	// Modules first: some settings of the kernel are theirs. What this kernel has
	// not is told in the journal of these two and keeps nobody from going on.
	for _, unit := range []string{"systemd-modules-load.service", "systemd-sysctl.service"} {
		_, _ = command(ctx, "systemctl", "restart", unit)
	}
	for _, args := range [][]string{{"daemon-reload"}, {"reset-failed", Service}, {"restart", "--no-block", Service}} {
		if _, err := command(ctx, "systemctl", args...); err != nil && args[0] != "reset-failed" {
			return err
		}
	}
	return nil
}

// State is what systemd says of the service.
type State struct {
	Active string `json:"active"` // active, activating, failed …
	Status string `json:"status"` // what the agent says
	PID    string `json:"pid"`
}

// Ask asks for the service's state.
func Ask(ctx context.Context) (State, error) {
	out, err := command(ctx, "systemctl", "show", "--property", "ActiveState,StatusText,MainPID", Service)
	if err != nil {
		return State{}, err
	}
	var s State
	for line := range strings.Lines(out) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch name {
		case "ActiveState":
			s.Active = value
		case "StatusText":
			s.Status = value
		case "MainPID":
			s.PID = value
		}
	}
	return s, nil
}

// Journal returns the last lines that the service wrote.
func Journal(ctx context.Context, lines int) (string, error) {
	return command(ctx, "journalctl", "--unit", Service, "--no-pager", "--output", "cat", "--lines", fmt.Sprint(lines))
}

// Remove stops the service and takes away what was installed, but for data and
// the program that others may use. Gone names what was there.
func Remove(ctx context.Context, root string, purge bool) (gone []string, err error) {
	a := Agent{Root: root}
	if a.live() {
		if _, err := os.Stat(unitPath); err == nil {
			if _, err := command(ctx, "systemctl", "disable", "--now", Service); err != nil {
				return nil, err
			}
		}
	}
	paths := []string{wantedPath, unitPath, sysctlPath, modulesPath, JoinToken}
	if purge {
		paths = append(paths, Settings, Program, NVML, Data)
	}
	for _, p := range paths {
		if _, err := os.Lstat(a.path(p)); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := os.RemoveAll(a.path(p)); err != nil {
			return gone, fmt.Errorf("remove what was installed: %w", err)
		}
		gone = append(gone, p)
	}
	if a.live() {
		_, err = command(ctx, "systemctl", "daemon-reload")
	}
	return gone, err
}

// live tells whether the root is this machine's own, under systemd.
func (a Agent) live() bool { return filepath.Clean("/"+a.Root) == "/" && Runs() }
