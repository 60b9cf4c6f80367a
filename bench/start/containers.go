package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/bench/report"
	"github.com/nimbus-ci/nimbus/internal/executor/docker"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/library"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// What containers are compared with, and what a warm one may cost over that.
const (
	execFloor = "an exec of the same in a container of the same image that runs, by the same client"
	warmGoal  = "value<=1.25*floor+15"
)

// measureContainers measures containers of a daemon of its own.
func measureContainers(ctx context.Context, r *report.Report, p *parts, bin, dir string, n counts) error {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "no containers: a daemon of one's own takes root")
		return nil
	}
	d, err := testenv.StartDocker()
	if err != nil {
		return err
	}
	defer d.Close()
	const name, tag = "nimbus.test/tools", "1"
	if err := d.Image(name, tag); err != nil {
		return err
	}
	cfg := docker.Config{
		Shim: filepath.Join(bin, "nimbus-shim"), Guest: filepath.Join(bin, "nimbus-guest"), Host: "unix://" + d.Socket,
		Owner: fmt.Sprintf("b%d", os.Getpid()), Dir: filepath.Join(dir, "docker"), Built: image.Store{Dir: filepath.Join(dir, "none")},
		Catalog: library.Catalog{Aliases: map[string]string{nimbus.DefaultImage: name + ":" + tag}},
		Warm:    docker.WarmConfig{Containers: 1, MemoryMiB: 512}, Log: slog.New(p),
	}
	e, err := docker.New(cfg)
	if err != nil {
		return err
	}
	if status := e.Status(ctx); !status.Available {
		fmt.Fprintln(os.Stderr, "no containers:", status.Detail)
		return nil
	}
	floor, err := newExec(ctx, d.Socket, name+":"+tag)
	if err != nil {
		return err
	}
	defer floor.close(ctx)
	class := nimbus.Class{Executor: nimbus.ExecutorDocker, Image: nimbus.DefaultImage, CPUs: 1, MemoryMiB: 512, Network: nimbus.NetworkNone}
	one := func() (time.Duration, error) { return startOne(ctx, e, class, dir, p) }
	var cold samples
	for range n.each {
		if err := cold.pair("docker cold", one, func() (time.Duration, error) { return floor.run(ctx) }); err != nil {
			return err
		}
	}
	cold.add(r, "docker.cold", execFloor, "")
	return measureWarmContainers(ctx, r, e, floor, one, n)
}

func measureWarmContainers(ctx context.Context, r *report.Report, e *docker.Executor, floor *execs, one func() (time.Duration, error), n counts) error {
	keeping, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		done <- e.KeepWarm(keeping, func() nimbus.Capacity { return nimbus.Capacity{CPUs: 64, MemoryMiB: 64 << 10, Sandboxes: 64} }, func() {})
	}()
	defer func() { stop(); <-done }()
	var warm samples
	for range n.each {
		if err := awaitContainer(ctx, e); err != nil {
			return err
		}
		if err := warm.pair("docker warm", one, func() (time.Duration, error) { return floor.run(ctx) }); err != nil {
			return err
		}
	}
	least := report.Median(warm.floor)
	warm.addWith(r, "docker.warm", execFloor, warmGoal, func(value, _ float64) bool { return value <= 1.25*least+15 })
	return nil
}

// awaitContainer waits until a container waits, and the pool rests.
func awaitContainer(ctx context.Context, e *docker.Executor) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("no container waits"))
	defer cancel()
	for len(e.Warm()) == 0 {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// execs are the floor: one container that runs, in which a process is started.
type execs struct {
	api *client.Client
	id  string
}

func newExec(ctx context.Context, socket, image string) (*execs, error) {
	api, err := client.New(client.WithHTTPClient(&http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}), client.WithHost("unix://"+socket))
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	made, err := api.ContainerCreate(ctx, client.ContainerCreateOptions{
		Config:     &container.Config{Image: image, Entrypoint: []string{"sleep", "100000"}},
		HostConfig: &container.HostConfig{NetworkMode: "none"},
	})
	if err == nil {
		_, err = api.ContainerStart(ctx, made.ID, client.ContainerStartOptions{})
	}
	if err != nil {
		return nil, fmt.Errorf("start a container: %w", err)
	}
	return &execs{api: api, id: made.ID}, nil
}

func (x *execs) close(ctx context.Context) {
	if _, err := x.api.ContainerRemove(ctx, x.id, client.ContainerRemoveOptions{Force: true}); err != nil {
		fmt.Fprintln(os.Stderr, "bench-start:", err)
	}
}

// run starts a process and waits for its first byte.
func (x *execs) run(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	made, err := x.api.ExecCreate(ctx, x.id, client.ExecCreateOptions{Cmd: []string{"/bin/sh", "-c", "echo x"}, AttachStdout: true, AttachStderr: true})
	if err != nil {
		return 0, fmt.Errorf("exec: %w", err)
	}
	attached, err := x.api.ExecAttach(ctx, made.ID, client.ExecAttachOptions{})
	if err != nil {
		return 0, fmt.Errorf("exec: %w", err)
	}
	defer attached.Close()
	const header = 8 // of the daemon's frame
	said, err := bufio.NewReader(attached.Reader).Peek(header + 1)
	took := time.Since(began)
	if err != nil || !strings.HasSuffix(string(said), "x") {
		return 0, fmt.Errorf("exec said %q: %w", said, err)
	}
	return took, nil
}
