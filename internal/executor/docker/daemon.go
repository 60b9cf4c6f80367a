package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
)

const (
	// callTimeout bounds a question to the daemon.
	callTimeout = 20 * time.Second
	// changeTimeout bounds what the daemon makes or removes. It is seen to its
	// end whatever becomes of who asked: what is made by then is known.
	changeTimeout = 2 * time.Minute
	// goneInterval is how often a container is looked for that is being removed.
	goneInterval = 20 * time.Millisecond
)

// Labels of all that is ours in a daemon.
const (
	labelOwner   = "dev.nimbus.owner"
	labelSandbox = "dev.nimbus.sandbox"
	labelKit     = "dev.nimbus.runner" // GitHub's runner that it has
)

// lastWordsBytes is how much of what the guest wrote is told.
const lastWordsBytes = 2 << 10

// daemon is the machine's docker daemon, and in it what belongs to this agent.
type daemon struct {
	host, owner string
	api         *client.Client
}

func newDaemon(host, owner string) (*daemon, error) {
	if !strings.HasPrefix(host, "unix://") {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "%q is no docker daemon of this machine", host).
			WithHint("it looks like %s: containers share folders with their agent", DefaultHost)
	}
	api, err := client.New(client.WithHost(host))
	if err != nil {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "%q is no docker daemon: %w", host, err)
	}
	return &daemon{host: host, owner: owner, api: api}, nil
}

// reason is an error of the daemon in our words.
func (d *daemon) reason(err error) error {
	switch {
	case err == nil:
		return nil
	case client.IsErrConnectionFailed(err):
		return nimbus.Errorf(nimbus.CodeUnavailable, "the docker daemon can't be reached: %w", err).
			WithHint("is it running, and may this user use %s? --docker-host names another", strings.TrimPrefix(d.host, "unix://"))
	case errors.Is(err, context.DeadlineExceeded) || errdefs.IsDeadlineExceeded(err):
		return nimbus.Errorf(nimbus.CodeUnavailable, "the docker daemon does not answer: %w", err).
			WithHint("its own log may tell why; a restart of it ends no job where live-restore is set")
	case errdefs.IsNotFound(err):
		return nimbus.Errorf(nimbus.CodeNotFound, "the docker daemon has it not: %w", err)
	}
	return fmt.Errorf("docker daemon: %w", err)
}

func (d *daemon) name(machine string) string { return d.prefix() + machine }
func (d *daemon) prefix() string             { return "nimbus-" + d.owner + "-" }

func (d *daemon) labels(machine string) map[string]string {
	return map[string]string{labelOwner: d.owner, labelSandbox: machine}
}

func (d *daemon) ours() client.Filters {
	return client.Filters{}.Add("label", labelOwner+"="+d.owner)
}

// info asks the daemon what it is.
func (d *daemon) info(ctx context.Context) (system.Info, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := d.api.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		return system.Info{}, d.reason(err)
	}
	r, err := d.api.Info(ctx, client.InfoOptions{})
	return r.Info, d.reason(err)
}

// pid is the process that listens at the daemon's socket: the daemon, or who
// started it.
func (d *daemon) pid() (int, error) {
	conn, err := net.DialTimeout("unix", strings.TrimPrefix(d.host, "unix://"), callTimeout)
	if err != nil {
		return 0, fmt.Errorf("find the docker daemon: %w", err)
	}
	defer conn.Close()
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, errors.New("find the docker daemon: it is at no unix socket")
	}
	raw, err := unixConn.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("find the docker daemon: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(s uintptr) { cred, credErr = unix.GetsockoptUcred(int(s), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, fmt.Errorf("find the docker daemon: %w", err)
	}
	if credErr != nil {
		return 0, fmt.Errorf("find the docker daemon: %w", credErr)
	}
	return int(cred.Pid), nil
}

// change is for what must be seen to its end once it is begun.
func change(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), changeTimeout)
}

// run makes a container and starts it. Before is told its id in between.
func (d *daemon) run(ctx context.Context, machine string, o client.ContainerCreateOptions, before func(id string) error) error {
	o.Name = d.name(machine)
	if o.Config.Labels == nil {
		o.Config.Labels = map[string]string{}
	}
	maps.Copy(o.Config.Labels, d.labels(machine))
	making, cancel := change(ctx)
	defer cancel()
	made, err := d.create(ctx, making, machine, o)
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := before(made.ID); err != nil {
		return err
	}
	_, err = d.api.ContainerStart(making, made.ID, client.ContainerStartOptions{})
	return d.reason(err)
}

// create makes a container. Its name is taken where an agent asked for it that was
// killed since: the daemon sees that to its end, as it does everything.
func (d *daemon) create(ctx, making context.Context, machine string, o client.ContainerCreateOptions) (client.ContainerCreateResult, error) {
	for {
		made, err := d.api.ContainerCreate(making, o)
		if !errdefs.IsConflict(err) || ctx.Err() != nil {
			return made, d.reason(err)
		}
		if err := d.remove(ctx, machine); err != nil {
			return made, err
		}
		select { // it may have the name, and not be there yet
		case <-time.After(goneInterval):
		case <-ctx.Done():
		}
	}
}

// list is the sandboxes that have a container.
func (d *daemon) list(ctx context.Context) ([]string, error) { return d.listed(ctx, labelSandbox) }

// kits are GitHub's runners that containers have.
func (d *daemon) kits(ctx context.Context) ([]string, error) { return d.listed(ctx, labelKit) }

// listed is what our containers have as a label.
func (d *daemon) listed(ctx context.Context, label string) (values []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	containers, err := d.api.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: d.ours()})
	if err != nil {
		return nil, d.reason(err)
	}
	for _, c := range containers.Items {
		if value, ok := c.Labels[label]; ok {
			values = append(values, value)
		}
	}
	return values, nil
}

// remove kills a container and removes it, and returns once nothing of it is
// left.
func (d *daemon) remove(ctx context.Context, machine string) error {
	ctx, cancel := change(ctx)
	defer cancel()
	for {
		_, err := d.api.ContainerRemove(ctx, d.name(machine), client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		if errdefs.IsNotFound(err) {
			return nil
		}
		// Somebody else may be removing it; and of one that ends as it is killed the
		// daemon says that it can't kill what is not running.
		if err != nil && !errdefs.IsConflict(err) && !strings.Contains(err.Error(), "is not running") {
			return fmt.Errorf("remove container: %w", d.reason(err))
		}
		if _, err = d.api.ContainerInspect(ctx, d.name(machine), client.ContainerInspectOptions{}); errdefs.IsNotFound(err) {
			return nil
		}
		select {
		case <-time.After(goneInterval):
		case <-ctx.Done():
			return fmt.Errorf("remove container: %w", errors.Join(d.reason(err), context.Cause(ctx)))
		}
	}
}

// imagesInUse are those that any container is made of, ours or not, by id.
func (d *daemon) imagesInUse(ctx context.Context) (map[string]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := d.api.ContainerList(ctx, client.ContainerListOptions{All: true})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", d.reason(err))
	}
	ids := map[string]bool{}
	for _, c := range r.Items {
		ids[c.ImageID] = true
	}
	return ids, nil
}

// state is how a container is, and how it ended.
func (d *daemon) state(ctx context.Context, machine string) (*container.State, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := d.api.ContainerInspect(ctx, d.name(machine), client.ContainerInspectOptions{})
	if err != nil {
		return nil, d.reason(err)
	}
	if r.Container.State == nil {
		return nil, errors.New("docker daemon: it tells no state of the container")
	}
	return r.Container.State, nil
}

// lastWords is the end of what the guest wrote, for the operator; "" where there
// is nothing to be had.
func (d *daemon) lastWords(ctx context.Context, machine string) string {
	const lines = "20"
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	logs, err := d.api.ContainerLogs(ctx, d.name(machine), client.ContainerLogsOptions{ShowStderr: true, ShowStdout: true, Tail: lines})
	if err != nil {
		return ""
	}
	defer logs.Close()
	var said bytes.Buffer
	_, _ = stdcopy.StdCopy(&said, &said, io.LimitReader(logs, 16*lastWordsBytes)) // what can be had
	raw := said.Bytes()
	return executor.Printable(raw[max(0, len(raw)-lastWordsBytes):])
}
