// Package profile takes CPU profiles while a bench runs, where the user asks for them.
package profile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
)

// span is how long is profiled, in seconds.
const span = "20"

// While takes profiles of a server, which it asks for as its administrator, and of this
// program into the folder that PROFILE names, if any: server.cpu and bench.cpu. What
// it returns waits until they are there.
func While(ctx context.Context, url, tokenFile string) (wait func() error) {
	dir := os.Getenv("PROFILE")
	if dir == "" {
		return func() error { return nil }
	}
	taken := make(chan error, 1)
	go func() { taken <- take(ctx, url, tokenFile, dir) }()
	return func() error { return <-taken }
}

func take(ctx context.Context, url, tokenFile, dir string) (err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make a folder for profiles: %w", err)
	}
	own, err := os.Create(filepath.Join(dir, "bench.cpu"))
	if err != nil {
		return fmt.Errorf("make a profile: %w", err)
	}
	if err := pprof.StartCPUProfile(own); err != nil {
		return errors.Join(fmt.Errorf("profile this program: %w", err), own.Close())
	}
	defer func() {
		pprof.StopCPUProfile()
		err = errors.Join(err, own.Close())
	}()
	token, err := os.ReadFile(tokenFile)
	if err != nil {
		return fmt.Errorf("read the administrator's token: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/debug/pprof/profile?seconds="+span, nil)
	if err != nil {
		return fmt.Errorf("ask for a profile: %w", err)
	}
	r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return fmt.Errorf("ask for a profile: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("the server gives no profile: %s", answer.Status)
	}
	served, err := os.Create(filepath.Join(dir, "server.cpu"))
	if err != nil {
		return fmt.Errorf("make a profile: %w", err)
	}
	_, err = io.Copy(served, answer.Body)
	return errors.Join(err, served.Close())
}
