package runner

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus/internal/forge/githubtest/protocol"
)

// Bounds of what is asked of docker.
const (
	dockerTimeout = 10 * time.Minute // of one command: a pull takes long
	pullTries     = 3
	healthPause   = 2 * time.Second
	healthChecks  = 60
)

// Where a job's container has the runner's folders, as GitHub's has them.
const (
	workInside = "/__w"
	homeInside = "/github/home"
)

// containers are those of one job: the sequence of commands is that of GitHub's
// runner.
type containers struct {
	docker         string // the program
	label, network string
	execution      *execution
	started        []*container
	steps          *container // that steps run in, nil for none
}

type container struct {
	protocol.Container

	id, name, path string // path is its image's PATH
}

func (c *containers) holdsSteps() bool { return c != nil && c.steps != nil }

// openContainers starts the job's containers, and waits until its services say
// that they are well.
func (x *execution) openContainers(ctx context.Context) (int, error) {
	program, err := exec.LookPath("docker")
	if err != nil {
		return 1, errors.New("docker: command not found")
	}
	sum := sha256.Sum256([]byte(x.runnerName))
	label := hex.EncodeToString(sum[:3])
	c := &containers{docker: program, label: label, network: "github_network_" + strings.ToLower(rand.Text()), execution: x}
	x.containers = c
	if err := c.begin(ctx); err != nil {
		return 1, err
	}
	var all []*container
	if x.job.Container != nil {
		c.steps = &container{Container: *x.job.Container}
		all = append(all, c.steps)
	}
	for _, s := range x.job.Services {
		all = append(all, &container{Container: s})
	}
	for _, one := range all {
		if err := c.start(ctx, one); err != nil {
			return 1, err
		}
	}
	return 0, c.awaitHealth(ctx)
}

// begin looks for the daemon, and removes what an earlier job has left.
func (c *containers) begin(ctx context.Context) error {
	for _, side := range []string{"Server", "Client"} {
		if _, err := c.ask(ctx, "version", "--format", "{{."+side+".APIVersion}}"); err != nil {
			return err
		}
	}
	stale, err := c.ask(ctx, "ps", "--all", "--quiet", "--no-trunc", "--filter", "label="+c.label)
	if err != nil {
		return err
	}
	for _, id := range strings.Fields(stale) {
		if _, err := c.ask(ctx, "rm", "--force", id); err != nil {
			return err
		}
	}
	if _, err := c.ask(ctx, "network", "prune", "--force", "--filter", "label="+c.label); err != nil {
		return err
	}
	_, err = c.ask(ctx, "network", "create", "--label", c.label, c.network)
	return err
}

func (c *containers) start(ctx context.Context, one *container) (err error) {
	for try := 1; ; try++ {
		if _, err = c.ask(ctx, "pull", one.Image); err == nil {
			break
		}
		if try == pullTries {
			return err
		}
	}
	one.name = strings.ToLower(rand.Text())
	args := []string{"create", "--name", one.name, "--label", c.label}
	if one == c.steps {
		args = append(args, "--workdir", c.inside(c.execution.layout.workspace), "--network", c.network)
	} else {
		args = append(args, "--network", c.network, "--network-alias", one.Alias)
	}
	for _, port := range one.Ports {
		args = append(args, "-p", port)
	}
	args = append(args, one.Options...)
	for _, k := range slices.Sorted(maps.Keys(one.Env)) {
		args = append(args, "-e", k+"="+one.Env[k])
	}
	args = append(args, "-e", "GITHUB_ACTIONS=true", "-e", "CI=true")
	for _, volume := range one.Volumes {
		args = append(args, "-v", volume)
	}
	if one == c.steps {
		more, err := c.forSteps(one)
		if err != nil {
			return err
		}
		args = append(args, more...)
	} else {
		args = append(args, one.Image)
	}
	if one.id, err = c.ask(ctx, args...); err != nil {
		return err
	}
	c.started = append(c.started, one)
	if _, err := c.ask(ctx, "start", one.id); err != nil {
		return err
	}
	return c.look(ctx, one)
}

// forSteps are the arguments of the container that steps run in: it has the
// runner's folders, and does nothing.
func (c *containers) forSteps(one *container) ([]string, error) {
	home := filepath.Join(c.execution.layout.temp, "_github_home")
	if err := os.MkdirAll(home, 0o755); err != nil {
		return nil, fmt.Errorf("make the job's home: %w", err)
	}
	return []string{
		"-e", "HOME=" + homeInside, "-v", "/var/run/docker.sock:/var/run/docker.sock", "-v", c.work() + ":" + workInside, "-v", home + ":" + homeInside,
		"--entrypoint", "tail", one.Image, "-f", "/dev/null",
	}, nil
}

// look sees that a container runs, and what GitHub's runner wants to know of it.
func (c *containers) look(ctx context.Context, one *container) error {
	running, err := c.ask(ctx, "ps", "--all", "--filter", "id="+one.id, "--filter", "status=running", "--no-trunc", "--format", "{{.ID}} {{.Status}}")
	if err != nil {
		return err
	}
	if !strings.HasPrefix(running, one.id) {
		_, err := c.ask(ctx, "logs", "--details", one.id)
		return errors.Join(fmt.Errorf("the container of %s is not running", one.Image), err)
	}
	if one != c.steps {
		_, err := c.ask(ctx, "port", one.id)
		return err
	}
	env, err := c.ask(ctx, "inspect", "--format", "{{range .Config.Env}}{{println .}}{{end}}", one.id)
	for line := range strings.Lines(env) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "PATH="); ok {
			one.path = path
		}
	}
	return err
}

// awaitHealth waits for the services that say how they are.
func (c *containers) awaitHealth(ctx context.Context) error {
	for _, one := range c.started {
		if one == c.steps {
			continue
		}
		for check := 1; ; check++ {
			health, err := c.ask(ctx, "inspect", "--format={{if .Config.Healthcheck}}{{print .State.Health.Status}}{{end}}", one.id)
			if err != nil {
				return err
			}
			if health == "" || health == "healthy" {
				fmt.Fprintf(c.execution.log, "%s service is healthy.\n", one.Alias)
				break
			}
			if health != "starting" || check == healthChecks {
				_, err := c.ask(ctx, "logs", "--details", one.id)
				return errors.Join(fmt.Errorf("the service %s is %s", one.Alias, health), err)
			}
			select {
			case <-time.After(healthPause):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}

// script runs a step's script in the job's container.
func (c *containers) script(ctx context.Context, x *execution, s protocol.Step, file, dir string, commands commandFiles) (code, group int, err error) {
	args := []string{"exec", "-i", "--workdir", c.inside(dir)}
	variables := x.env.forContainer(commands.variables(), s.Env)
	variables["HOME"] = homeInside
	env := slices.Clone(os.Environ()) // docker's own
	for _, k := range slices.Sorted(maps.Keys(variables)) {
		args = append(args, "-e", k)
		env = append(env, k+"="+c.inside(variables[k]))
	}
	if len(x.env.path) > 0 {
		args = append(args, "-e", "PATH="+strings.Join(append(slices.Clone(x.env.path), c.steps.path), ":"))
	}
	args = append(args, c.steps.id)
	if s.Shell == "bash" {
		args = append(args, "bash", "--noprofile", "--norc", "-eo", "pipefail")
	} else {
		args = append(args, "sh", "-e")
	}
	return runShell(ctx, c.docker, append(args, c.inside(file)), x.layout.workspace, env, x.log)
}

// work is the folder of all that jobs have.
func (c *containers) work() string { return filepath.Dir(c.execution.layout.temp) }

// inside is where a container has what lies in the runner's folders.
func (c *containers) inside(path string) string {
	if rest, ok := strings.CutPrefix(path, c.work()); ok && (rest == "" || rest[0] == '/') {
		return workInside + rest
	}
	return path
}

// close removes all that was made.
func (c *containers) close(ctx context.Context) (code int, err error) {
	for _, one := range c.started {
		if one != c.steps {
			_, logErr := c.ask(ctx, "logs", "--details", one.id)
			err = errors.Join(err, logErr)
		}
		_, rmErr := c.ask(ctx, "rm", "--force", one.id)
		err = errors.Join(err, rmErr)
	}
	_, rmErr := c.ask(ctx, "network", "rm", c.network)
	return 0, errors.Join(err, rmErr)
}

// ask runs a command of docker's, shows it and what it says, and returns what it
// says to stdout.
func (c *containers) ask(ctx context.Context, args ...string) (string, error) {
	fmt.Fprintf(c.execution.log, "##[command]%s %s\n", c.docker, strings.Join(args, " "))
	ctx, cancel := context.WithTimeout(ctx, dockerTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.docker, args...)
	var said beginning
	cmd.Stdout, cmd.Stderr = io.MultiWriter(c.execution.log, &said), c.execution.log
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("docker %s: %w", args[0], err)
	}
	return strings.TrimSpace(said.String()), nil
}

// beginning keeps the first of what is written to it.
type beginning struct{ bytes.Buffer }

func (b *beginning) Write(p []byte) (int, error) {
	const most = 64 << 10
	b.Buffer.Write(p[:max(0, min(len(p), most-b.Len()))])
	return len(p), nil
}
