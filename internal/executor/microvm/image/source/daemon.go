package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/nimbus-ci/nimbus"
)

// dockerSocket is where the daemon is, where DOCKER_HOST says nothing.
const dockerSocket = "/var/run/docker.sock"

// daemon opens an image of a docker daemon on this machine: it is saved to a
// scratch file first.
func (o Opener) daemon(ctx context.Context, name string) (*Image, error) {
	dir, err := o.Scratch()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "saved.tar")
	if err := o.save(ctx, name, file); err != nil {
		return nil, err
	}
	return o.archive(ctx, file)
}

func (o Opener) save(ctx context.Context, name, file string) error {
	socket := dockerSocket
	if host := os.Getenv("DOCKER_HOST"); host != "" {
		path, ok := strings.CutPrefix(host, "unix://")
		if !ok {
			return nimbus.Errorf(nimbus.CodeUnsupported, "the docker daemon at DOCKER_HOST is not on this machine").
				WithHint("save the image there, and import the file: archive:FILE")
		}
		socket = path
	}
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "unix", socket)
		},
	}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/images/get?names="+url.QueryEscape(name), nil)
	if err != nil {
		return fmt.Errorf("ask the docker daemon: %w", err)
	}
	answer, err := client.Do(r)
	if err != nil {
		return nimbus.Errorf(nimbus.CodeUnavailable, "the docker daemon can't be reached: %w", err).WithHint("is it running, and may you use %s?", socket)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return refusal(answer, name)
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("save image: %w", err)
	}
	n, err := io.Copy(f, io.LimitReader(answer.Body, o.MaxBytes+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("save image: %w", err)
	}
	if n > o.MaxBytes {
		return nimbus.Errorf(nimbus.CodeTooLarge, "it has more than %d MiB", o.MaxBytes>>20)
	}
	return nil
}

func refusal(answer *http.Response, name string) error {
	var told struct {
		Message string `json:"message"`
	}
	const enough = 4 << 10
	_ = json.NewDecoder(io.LimitReader(answer.Body, enough)).Decode(&told) // the status says enough
	if answer.StatusCode == http.StatusNotFound {
		return nimbus.Errorf(nimbus.CodeNotFound, "the docker daemon has no image %q", name).WithHint("docker images lists what it has")
	}
	return nimbus.Errorf(nimbus.CodeUnavailable, "the docker daemon answered %d: %s", answer.StatusCode, told.Message)
}
