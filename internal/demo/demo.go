// Package demo shows the main job offline, from a push to the end: a double of
// GitHub reads a real workflow file and sends the webhooks that GitHub would
// send; Nimbus gives each job a sandbox; the double's runner works inside.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest"
	"github.com/nimbus-ci/nimbus/internal/host"
	"github.com/nimbus-ci/nimbus/internal/server"
)

// Deadline is how long a demo may take, the building of its image included.
const Deadline = 8 * time.Minute

// repository is what the project is called at the double.
const repository = "nimbus-demo/hello"

// expectedFile in a project says how each of its jobs should end, by the job's
// name. Without it, all should succeed.
const expectedFile = "expected.json"

// Config is what a demo needs.
type Config struct {
	// Data is the demo's own directory. Its books begin empty each time; the
	// image is kept.
	Data string
	// Project is pushed: a folder with .github/workflows.
	Project fs.FS
	// Host is the machine's configuration, with the folder of images; Data,
	// Server, Relays and Log are set here.
	Host host.Config
	// AllowTrustedLocal lets the jobs run without a machine of their own.
	AllowTrustedLocal bool
	// Keep goes on after the jobs have ended, until ctx ends.
	Keep bool

	Out   io.Writer // what a person reads
	Style terminal.Style
	Log   *slog.Logger
}

// Outcome is how a demo ended.
type Outcome struct {
	Jobs []Job
	// Problems are sentences: what did not end as expected, what was left
	// behind. None means that all went well.
	Problems []string
	// Hung tells that not everything had ended at the deadline.
	Hung bool
}

// Job is one job of the demo.
type Job struct {
	nimbus.Job
	Expected nimbus.Result
}

// Run runs a demo. An error means that it could not be tried; what went wrong
// with its jobs is in the outcome.
func Run(ctx context.Context, cfg Config) (Outcome, error) {
	expected, err := readExpected(cfg.Project)
	if err != nil {
		return Outcome{}, err
	}
	limited, cancel := context.WithTimeout(ctx, Deadline)
	defer cancel()
	d := &demo{Config: cfg, screen: &screen{out: cfg.Out, style: cfg.Style}, expected: expected}
	if err := d.prepare(limited); err != nil {
		return Outcome{}, err
	}
	if err := d.startDouble(); err != nil {
		return Outcome{}, err
	}
	defer d.double.Close()
	if err := d.serve(ctx, limited); err != nil {
		return d.outcome, err
	}
	d.checkLeftovers(context.WithoutCancel(ctx))
	d.conclude()
	return d.outcome, nil
}

// demo is one run of it.
type demo struct {
	Config

	screen   *screen
	expected map[string]nimbus.Result
	double   *githubtest.Server
	client   *client.Client
	runIDs   []int64
	machines bool // jobs get microVMs
	outcome  Outcome
}

func readExpected(project fs.FS) (map[string]nimbus.Result, error) {
	raw, err := fs.ReadFile(project, expectedFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what is expected: %w", err)
	}
	var expected map[string]nimbus.Result
	if err := json.Unmarshal(raw, &expected); err != nil {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "%s can't be read: %w", expectedFile, err)
	}
	return expected, nil
}

func (d *demo) startDouble() (err error) {
	d.double, err = githubtest.Start(githubtest.Config{RunnerURL: d.runnerURL(), Log: d.Log})
	if err != nil {
		return fmt.Errorf("start the double of GitHub: %w", err)
	}
	d.relayDouble()
	return nil
}

// serve runs Nimbus while play runs.
func (d *demo) serve(ctx, limited context.Context) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	nimbusCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	e := server.Embedded{
		Config: server.Config{
			Data: d.Data, Fresh: true, Listener: l, AllowTrustedLocal: d.AllowTrustedLocal, Log: d.Log,
			GitHub: &server.GitHub{
				AppID: d.double.AppID(), PrivateKey: d.double.PrivateKey(),
				WebhookSecrets: [][]byte{d.double.WebhookSecret()}, URL: d.double.URL(),
			},
		},
		Agent:   &d.Host,
		OnReady: d.welcome,
	}
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- e.Run(nimbusCtx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-ended:
		return err
	}
	defer d.client.Close()
	played := d.play(limited)
	if d.Keep && played == nil && ctx.Err() == nil {
		d.screen.say("%s", d.Style.Bold("It goes on until Ctrl-C."))
		<-ctx.Done()
	}
	if played == nil {
		// The agent tells that a sandbox is gone before it forgets the attempt: one
		// that is stopped between leaves that to the next agent, and here is none.
		d.awaitGone("directory", d.directories)
	}
	stop()
	return errors.Join(played, <-ended)
}

// welcome tells where to look, and makes the client that the demo uses.
func (d *demo) welcome(ctx context.Context, s *server.Server) error {
	login, err := s.LoginPath(ctx)
	if err != nil {
		return err
	}
	if d.client, err = client.New(client.Config{Server: s.URL(), Token: s.AdminToken()}); err != nil {
		return err
	}
	d.double.SetWebhook(s.URL() + "/webhooks/github")
	d.screen.say("%s %s", d.Style.Bold("Dashboard, while this runs:"), s.URL()+login)
	return nil
}

// play pushes the project and shows what becomes of it.
func (d *demo) play(ctx context.Context) error {
	if err := d.tellExecutor(ctx); err != nil {
		return err
	}
	d.screen.say("%s", d.Style.Quiet("pushing to "+repository+", a repository of the double's at "+d.double.URL()))
	var err error
	if d.runIDs, err = d.double.Push(ctx, repository, d.Project); err != nil {
		return fmt.Errorf("push the project: %w", err)
	}
	jobs, err := d.watch(ctx)
	if err != nil && ctx.Err() == nil {
		return err
	}
	for _, j := range jobs {
		d.outcome.Jobs = append(d.outcome.Jobs, Job{Job: j, Expected: d.expects(j.Name)})
	}
	d.outcome.Hung = errors.Is(ctx.Err(), context.DeadlineExceeded)
	if ctx.Err() != nil {
		d.abandon(context.WithoutCancel(ctx), jobs)
	}
	d.report()
	return nil
}

func (d *demo) expects(name string) nimbus.Result {
	if r, ok := d.expected[name]; ok {
		return r
	}
	return nimbus.ResultSuccess
}

// tellExecutor says what the jobs will run on, or in one line why they can't.
func (d *demo) tellExecutor(ctx context.Context) error {
	hosts, err := d.client.Hosts(ctx)
	if err != nil {
		return fmt.Errorf("ask for hosts: %w", err)
	}
	for _, h := range hosts {
		i := slices.IndexFunc(h.Inventory.Executors, func(e nimbus.ExecutorStatus) bool { return e.Name == nimbus.ExecutorMicroVM })
		switch {
		case i >= 0 && h.Inventory.Executors[i].Available:
			d.screen.say("each job gets a microVM of its own: %s", h.Inventory.Executors[i].Detail)
		case d.AllowTrustedLocal:
			d.screen.say("%s", d.Style.Warn("the jobs run on the local executor, as this user on this machine: trusted code only"))
		case i >= 0:
			e := h.Inventory.Executors[i]
			d.screen.say("%s", d.Style.Bad("microVMs can't run here: "+e.Detail+"; "+e.Hint+". Without them: nimbus up --demo --allow-trusted-local"))
		default:
			d.screen.say("%s", d.Style.Bad("this machine was told to use no microVMs. Without them: nimbus up --demo --allow-trusted-local"))
		}
	}
	return nil
}

// agentDir is where the agent of the demo keeps what it runs.
func (d *demo) agentDir() string { return filepath.Join(d.Data, "agent") }
