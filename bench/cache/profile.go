package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// profile takes a CPU profile of the product while raw uploads and downloads run,
// into the folder that PROFILE names, if any. What it returns waits until it is
// there.
func (b *bench) profile(ctx context.Context) (wait func() error) {
	dir := os.Getenv("PROFILE")
	if dir == "" {
		return func() error { return nil }
	}
	taken := make(chan error, 1)
	go func() { taken <- takeProfile(ctx, b.product, dir) }()
	return func() error { return <-taken }
}

func takeProfile(ctx context.Context, s *side, dir string) (err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make a folder for profiles: %w", err)
	}
	token, err := os.ReadFile(s.adminToken)
	if err != nil {
		return fmt.Errorf("read the administrator's token: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/debug/pprof/profile?seconds=20", nil)
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
	file, err := os.Create(filepath.Join(dir, "server.cpu"))
	if err != nil {
		return fmt.Errorf("make a profile: %w", err)
	}
	_, err = io.Copy(file, answer.Body)
	return errors.Join(err, file.Close())
}
