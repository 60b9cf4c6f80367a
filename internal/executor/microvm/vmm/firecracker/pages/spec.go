// Package pages serves the memory of a restored machine: page by page, as the
// machine touches it. It is a small process between a sandbox's shim and its
// monitor, which ends with the monitor and takes the monitor with it.
//
// A fault of the machine waits in the kernel until somebody copies the page in.
// So the server must not be the monitor itself, and must not be a process that
// comes and goes, as the agent does.
package pages

import (
	"encoding/json"
	"fmt"
	"os"
)

// Flag makes nimbus-shim a page server: nimbus-shim --pages FILE.
const Flag = "--pages"

// Spec is what a page server does. It is handed over in a file.
type Spec struct {
	// SocketDir and SocketName are where the monitor says what its memory is.
	// The folder is the monitor's, which does not run yet.
	SocketDir  string `json:"socket_dir"`
	SocketName string `json:"socket_name"`
	// UID owns the socket: nobody else may connect.
	UID int `json:"uid"`
	// Memory is the file with the memory. Nobody changes it.
	Memory string `json:"memory"`
	// WorkingSet is a file with the pages that a machine of this memory needs
	// first. They are copied in before they are asked for. Where there is none
	// yet, the pages of this machine are written to it.
	WorkingSet string `json:"working_set"`
	// Command starts the monitor.
	Command []string `json:"command"`
}

// Write leaves the spec in a file for Main.
func (spec Spec) Write(path string) error {
	raw, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("encode page server's spec: %w", err)
	}
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		return fmt.Errorf("write page server's spec: %w", err)
	}
	return nil
}

// readSpec reads what Write wrote.
func readSpec(path string) (s Spec, err error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return s, fmt.Errorf("read page server's spec: %w", err)
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return s, fmt.Errorf("decode page server's spec: %w", err)
	}
	if len(s.Command) == 0 || s.SocketName == "" || s.Memory == "" {
		return s, fmt.Errorf("the page server's spec lacks a command, a socket or a memory file")
	}
	return s, nil
}
