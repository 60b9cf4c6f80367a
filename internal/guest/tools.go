package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// The tools of a root file system that isn't Nimbus' own: what takes a GitHub
// job lies on a disk beside it, and is laid over it.
const (
	toolsMount    = "/tools"
	runnerProgram = "/usr/local/bin/nimbus-runner"
	runnerDir     = "/opt/runner"  // GitHub's own runner, which writes there
	runnerHome    = "/home/runner" // and runs as
	runnerID      = 1001
)

// layTools mounts the tools over the new root. None is there where the disk has
// none. The image is the tenant's: where its folders lead, over links of its
// own, nothing but this machine can be.
func layTools(p kernelParameters, root string) error {
	if err := awaitDevice(p.tools); err != nil {
		return err
	}
	disk := mount{p.tools, toolsMount, p.rootType, unix.MS_RDONLY | unix.MS_NODEV, ""}
	if err := disk.do(); err != nil {
		return err
	}
	if err := bindFile(toolsMount+runnerProgram, root+runnerProgram); err != nil {
		return err
	}
	if _, err := os.Stat(toolsMount + runnerDir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, dir := range []string{"/rw/runner", "/rw/runner.work", root + runnerHome} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("prepare the runner's folder: %w", err)
		}
		if err := os.Chown(dir, runnerID, runnerID); err != nil {
			return fmt.Errorf("prepare the runner's folder: %w", err)
		}
	}
	over := mount{"overlay", root + runnerDir, "overlay", 0,
		"lowerdir=" + toolsMount + runnerDir + ",upperdir=/rw/runner,workdir=/rw/runner.work"}
	return over.do()
}

// bindFile makes one file be seen at another place.
func bindFile(from, to string) error {
	if _, err := os.Stat(from); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return fmt.Errorf("make folder of %s: %w", to, err)
	}
	f, err := os.OpenFile(to, os.O_CREATE|os.O_RDONLY, 0o755)
	if err != nil {
		return fmt.Errorf("make %s: %w", to, err)
	}
	f.Close()
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", to, err)
	}
	return nil
}
