package main

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

	"github.com/nimbus-ci/nimbus/bench/replica"
)

// profileSpan is how long the server is profiled.
const profileSpan = "15"

// profile takes CPU profiles of the server and of this program while cycles
// run, into the folder that PROFILE names, if any. What it returns waits until
// they are there.
func profile(ctx context.Context, p *replica.Plane) (wait func() error) {
	dir := os.Getenv("PROFILE")
	if dir == "" {
		return func() error { return nil }
	}
	taken := make(chan error, 1)
	go func() { taken <- takeProfiles(ctx, p, dir) }()
	return func() error { return <-taken }
}

func takeProfiles(ctx context.Context, p *replica.Plane, dir string) (err error) {
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
	token, err := os.ReadFile(p.TokenFile)
	if err != nil {
		return fmt.Errorf("read the administrator's token: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL+"/debug/pprof/profile?seconds="+profileSpan, nil)
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
