package identity

import (
	"os"
	"syscall"
)

// stateOf looks at a file. One that was replaced has another inode, whatever
// its times say.
func stateOf(path string) (fileState, error) {
	info, err := os.Stat(path)
	if err != nil {
		return fileState{}, err
	}
	out := fileState{changed: info.ModTime(), size: info.Size()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		out.inode = sys.Ino
	}
	return out, nil
}
