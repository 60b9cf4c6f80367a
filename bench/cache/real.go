package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// real measures @actions/cache as a job starts it, with tar and zstd.
func (b *bench) real(ctx context.Context) error {
	drive, err := filepath.Abs("test/cache/clients/drive.mjs")
	if err != nil {
		return fmt.Errorf("find the client: %w", err)
	}
	large, small := filepath.Join(b.dir, "large"), filepath.Join(b.dir, "small")
	if err := errors.Join(fill(large, b.archive, 50), fill(small, int64(b.files)*4<<10, b.files)); err != nil {
		return err
	}
	type times struct{ save, restore, cpu [2][]float64 }
	var ofLarge, ofSmall times
	for round := range b.clientRounds {
		for i := range 2 {
			at := (i + round) % 2
			s := [2]*side{b.product, b.base}[at]
			for _, part := range []struct {
				name, folder string
				into         *times
			}{{"large", large, &ofLarge}, {"small", small, &ofSmall}} {
				before, err := s.cpu()
				if err != nil {
					return err
				}
				save, restore, err := s.through(ctx, drive, part.folder, fmt.Sprintf("%s-%d", part.name, round))
				if err != nil {
					return fmt.Errorf("%s by the real client: %s: %w", part.name, s.name, err)
				}
				after, err := s.cpu()
				if err != nil {
					return err
				}
				t := part.into
				t.save[at], t.restore[at], t.cpu[at] = append(t.save[at], save.Seconds()), append(t.restore[at], restore.Seconds()), append(t.cpu[at], (after-before).Seconds())
				progress("real client, round %d, %s, %s: saved in %.2f s, restored in %.2f s, CPU %.2f s", round+1, part.name, s.name, save.Seconds(), restore.Seconds(), (after - before).Seconds())
			}
			if err := s.tidy(); err != nil {
				return err
			}
		}
	}
	const what = "the same client with the plain Go server, which speaks the protocol as far as it needs"
	for _, f := range []struct {
		name string
		of   [2][]float64
	}{
		{"real_client_save_s", ofLarge.save}, {"real_client_restore_s", ofLarge.restore}, {"real_client_server_cpu_s", ofLarge.cpu},
		{"small_files_save_s", ofSmall.save}, {"small_files_restore_s", ofSmall.restore}, {"small_files_server_cpu_s", ofSmall.cpu},
	} {
		b.report.AddPaired(f.name, "s", f.of[0], f.of[1], what, "", fine)
	}
	return nil
}

// fill makes a folder of files of random bytes.
func fill(dir string, size int64, files int) error {
	var seed [32]byte
	random := rand.NewChaCha8(seed)
	for i := range files {
		folder := filepath.Join(dir, fmt.Sprint(i/100))
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return fmt.Errorf("make what is saved: %w", err)
		}
		f, err := os.Create(filepath.Join(folder, fmt.Sprint(i)))
		if err != nil {
			return fmt.Errorf("make what is saved: %w", err)
		}
		_, err = io.CopyN(f, random, size/int64(files))
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("make what is saved: %w", err)
		}
	}
	return nil
}

// through has the client save a folder, and restore it to where it is no more.
func (s *side) through(ctx context.Context, drive, folder, key string) (save, restore time.Duration, err error) {
	if save, err = s.client(ctx, filepath.Dir(folder), drive, "save", key, filepath.Base(folder)); err != nil {
		return 0, 0, err
	}
	if err := os.RemoveAll(folder); err != nil {
		return 0, 0, fmt.Errorf("remove what was saved: %w", err)
	}
	if restore, err = s.client(ctx, filepath.Dir(folder), drive, "restore", filepath.Base(folder), key); err != nil {
		return 0, 0, err
	}
	if _, err := os.Stat(filepath.Join(folder, "0", "0")); err != nil {
		return 0, 0, fmt.Errorf("nothing was restored: %w", err)
	}
	return save, restore, nil
}

func (s *side) client(ctx context.Context, dir string, args ...string) (time.Duration, error) {
	temp, err := os.MkdirTemp(dir, "runner-")
	if err != nil {
		return 0, fmt.Errorf("make the runner's folder: %w", err)
	}
	defer os.RemoveAll(temp)
	token := s.token
	if token == "" {
		token = "none"
	}
	cmd := exec.CommandContext(ctx, "node", args...)
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + temp, "RUNNER_TEMP=" + temp, "GITHUB_WORKSPACE=" + dir, "GITHUB_REF=refs/heads/main",
		"ACTIONS_RUNTIME_TOKEN=" + token, "ACTIONS_RESULTS_URL=" + s.url + "/", "GITHUB_SERVER_URL=https://github.com", "ACTIONS_CACHE_SERVICE_V2=true",
	}
	began := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("@actions/cache: %w: %.2000s", err, out)
	}
	return time.Since(began), nil
}
