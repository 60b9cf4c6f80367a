package docker

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/nimbus-ci/nimbus/internal/shim"
)

// prefixWaiting begins the names of containers that were made before their job.
const prefixWaiting = "box"

func (e *Executor) waitingDir() string { return filepath.Join(e.cfg.Dir, "waiting") }

// hand makes a container the sandbox' own. A crash at any point leaves what the
// sweep finds.
func (e *Executor) hand(s *sandbox, id, dir string) error {
	if err := e.claims.Hand(s.machine, s.dir, id, dir, nil); err != nil {
		return err
	}
	s.id, s.dir = id, dir
	e.owned.Remove(s.machine)
	client, err := shim.Open(dir) // it is reached by its folder
	if err != nil {
		return fmt.Errorf("claim container: %w", err)
	}
	s.Shim = client
	return nil
}

// forget removes what tells of a container that is gone.
func (e *Executor) forget(machine string) error {
	if err := e.claims.Drop(machine); err != nil {
		return err
	}
	if !strings.HasPrefix(machine, prefixWaiting+"_") {
		return nil
	}
	if err := os.RemoveAll(filepath.Join(e.waitingDir(), machine)); err != nil {
		return fmt.Errorf("forget container: %w", err)
	}
	return nil
}
