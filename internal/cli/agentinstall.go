package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
	"github.com/nimbus-ci/nimbus/internal/doctor"
	"github.com/nimbus-ci/nimbus/internal/host"
	"github.com/nimbus-ci/nimbus/internal/programs"
	"github.com/nimbus-ci/nimbus/internal/systemd"
)

type agentInstallCmd struct {
	host.Flags `embed:""`

	Root   string        `help:"Install into the machine whose root is this folder, and start nothing: for images of machines." default:"/" type:"path" placeholder:"DIR"`
	DryRun bool          `help:"Only show what would be written."`
	Force  bool          `help:"Install though the machine lacks something."`
	Wait   time.Duration `within:"0s.." help:"How long to wait for the agent to be ready. 0: not at all." default:"30s" placeholder:"DURATION"`
}

func (*agentInstallCmd) Help() string {
	return `Makes the agent a service that systemd starts with the machine: this program, a unit with the fewest rights it works with, its settings, and what the kernel has to have. It looks first at what the machine lacks. Flags of nimbus agent run become settings in ` + systemd.Settings + `; without --executors it runs microVMs alone. An agent whose one executor is local needs no rights, and gets a user of its own.

Run again, it upgrades: settings stay unless they are given anew, the agent is replaced by this program, and jobs that run go on.

` + usage("nimbus agent install --server https://nimbus.example.com --join-token-file join.token",
		"nimbus agent install --executors microvm,docker --cpus 14", "nimbus agent install --dry-run --server https://nimbus.example.com")
}

// installView is what an installation did.
type installView struct {
	Files  []systemd.File `json:"files"`
	Checks []doctor.Check `json:"checks,omitempty"`
	Agent  *systemd.State `json:"agent,omitempty"`
	DryRun bool           `json:"dry_run"`
}

func (c *agentInstallCmd) Run(ctx context.Context, a *app, line *kong.Context) error {
	agent, err := c.agent(line)
	if err != nil {
		return err
	}
	files, err := agent.Files()
	if err != nil {
		return err
	}
	v := installView{Files: files, DryRun: c.DryRun}
	if c.DryRun {
		return a.showInstalled(v)
	}
	live := c.Root == "/"
	if live {
		if err := c.check(ctx, a, agent, &v); err != nil {
			return err
		}
	}
	if err := agent.Write(files); err != nil {
		return err
	}
	if live {
		if v.Agent, err = c.start(ctx, a, agent); err != nil {
			return err
		}
	}
	return a.showInstalled(v)
}

func (c *agentInstallCmd) agent(line *kong.Context) (systemd.Agent, error) {
	variables, err := settingsOf(line)
	if err != nil {
		return systemd.Agent{}, err
	}
	agent := systemd.Agent{Root: c.Root, Variables: variables}
	if agent.Program, err = os.Executable(); err != nil {
		return agent, fmt.Errorf("find this program: %w", err)
	}
	if agent.NVML, err = finder(systemd.Data).Find(programs.NVML); err != nil && nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		return agent, err
	}
	if c.JoinTokenFile != "" {
		if agent.JoinToken, err = readToken(c.JoinTokenFile); err != nil {
			return agent, err
		}
	}
	return agent, nil
}

func readToken(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read join token: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxTokenBytes))
	if err != nil {
		return nil, fmt.Errorf("read join token: %w", err)
	}
	if text = bytes.TrimSpace(text); len(text) == 0 {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "the file with the join token is empty").WithHint("on the control plane: nimbus hosts token > join.token")
	}
	return append(text, '\n'), nil
}

// check refuses a machine on which the agent can't work.
func (c *agentInstallCmd) check(ctx context.Context, a *app, agent systemd.Agent, v *installView) error {
	switch {
	case os.Geteuid() != 0:
		return nimbus.Errorf(nimbus.CodeForbidden, "a service can be installed by root alone").WithHint("sudo nimbus agent install …; or --dry-run, to see what it would do")
	case !systemd.Runs():
		return nimbus.Errorf(nimbus.CodeUnsupported, "systemd does not run this machine").
			WithHint("have what starts services here run: nimbus agent run; or --root DIR for the image of another machine")
	}
	settings, err := agent.Settings()
	if err != nil {
		return err
	}
	stop := terminal.Progress(a.Err, func() string { return "looking at the machine" })
	v.Checks = examine(ctx, doctor.Machine{
		Data: systemd.Data, Server: settings["NIMBUS_SERVER"], VMM: settings["NIMBUS_VMM"], DockerHost: settings["NIMBUS_DOCKER_HOST"],
		Images: settings["NIMBUS_IMAGES"], Executors: strings.Split(settings["NIMBUS_EXECUTORS"], ","), Programs: finder(systemd.Data),
	})
	stop()
	if !a.root.JSON {
		a.printChecks(a.Err, a.errStyle, v.Checks)
	}
	var lacks []string
	for _, k := range v.Checks {
		if k.Status == doctor.Fail {
			lacks = append(lacks, fmt.Sprintf("%s: %s (%s)", k.Name, k.Detail, k.Hint))
		}
	}
	if len(lacks) > 0 && !c.Force {
		return nimbus.Errorf(nimbus.CodeConflict, "the machine lacks something, nothing was installed: %s", strings.Join(lacks, "; ")).
			WithHint("mend what failed (nimbus doctor shows it again), or use --force")
	}
	return nil
}

// start starts the service and waits until it is ready.
func (c *agentInstallCmd) start(ctx context.Context, a *app, agent systemd.Agent) (*systemd.State, error) {
	settings, err := agent.Settings()
	if err != nil {
		return nil, err
	}
	if !systemd.Privileged(strings.Split(settings["NIMBUS_EXECUTORS"], ",")) {
		if err := systemd.MakeUser(ctx); err != nil {
			return nil, err
		}
	}
	before, err := systemd.Ask(ctx)
	if err != nil {
		return nil, err
	}
	if err := systemd.Start(ctx); err != nil {
		return nil, err
	}
	stop := terminal.Progress(a.Err, func() string { return "waiting for the agent" })
	defer stop()
	for deadline := time.Now().Add(c.Wait); ; {
		state, err := systemd.Ask(ctx)
		switch {
		case err != nil:
			return nil, err
		case state.Active == "active" && state.PID != before.PID, c.Wait == 0:
			return &state, nil
		case state.Active == "failed" || time.Now().After(deadline):
			stop()
			return nil, a.notReady(ctx, state)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// notReady says why an agent isn't, as far as it wrote it.
func (a *app) notReady(ctx context.Context, s systemd.State) error {
	if said, err := systemd.Journal(ctx, 5); err == nil && !a.root.JSON {
		for line := range strings.Lines(strings.TrimSpace(said)) {
			a.info("%s", a.errStyle.Quiet("agent: "+terminal.OneLine(strings.TrimSpace(line))))
		}
	}
	what := s.Active
	if s.Status != "" {
		what += ", " + s.Status
	}
	return nimbus.Errorf(nimbus.CodeUnavailable, "the agent is installed but not ready: %s", what).
		WithHint("it goes on trying: journalctl -fu nimbus-agent shows what it does")
}

func (a *app) showInstalled(v installView) error {
	if a.root.JSON {
		return a.printJSON(v)
	}
	if v.DryRun {
		for _, f := range v.Files {
			fmt.Fprintf(a.Out, "%s %s\n", a.style.Bold(f.Path), a.style.Quiet("("+f.Change+")"))
			for line := range strings.Lines(f.Text) {
				fmt.Fprint(a.Out, "    "+line)
			}
		}
		return nil
	}
	var rows []string
	for _, f := range v.Files {
		rows = append(rows, f.Path+"\t"+f.Change)
	}
	if err := a.table("FILE\tIS", rows); err != nil {
		return err
	}
	if v.Agent != nil {
		a.info("The agent %s. Its log: journalctl -fu nimbus-agent", v.Agent.Status)
	}
	return nil
}

// notSettings are flags of every command that are none of the agent's: its
// tokens and place are its own.
var notSettings = []string{"NIMBUS_TOKEN_FILE", "NIMBUS_ORG", "NIMBUS_DATA", "NIMBUS_JOIN_TOKEN_FILE"}

// settingsOf are the flags that were given on a command line, or by the
// environment, as environment variables that have the same effect.
func settingsOf(line *kong.Context) (systemd.Variables, error) {
	given := map[*kong.Flag]bool{}
	for _, p := range line.Path {
		if p.Flag != nil {
			given[p.Flag] = true
		}
	}
	v := systemd.Variables{}
	for _, f := range line.Flags() {
		if len(f.Envs) == 0 || slices.Contains(notSettings, f.Envs[0]) {
			continue
		}
		if value, ok := os.LookupEnv(f.Envs[0]); ok && !given[f] {
			v[f.Envs[0]] = value
		}
		if !given[f] {
			continue
		}
		text, err := flagText(f.Target, f.Tag)
		if err != nil {
			return nil, fmt.Errorf("--%s: %w", f.Name, err)
		}
		v[f.Envs[0]] = text
	}
	return v, nil
}

// flagText is what a flag's value looks like in its environment variable.
func flagText(v reflect.Value, tag *kong.Tag) (string, error) {
	switch v.Kind() {
	case reflect.Pointer:
		return flagText(v.Elem(), tag)
	case reflect.Slice, reflect.Map:
		sep := string(tag.Sep)
		var parts []string
		if v.Kind() == reflect.Slice {
			for i := range v.Len() {
				parts = append(parts, fmt.Sprint(v.Index(i)))
			}
		} else {
			sep = string(tag.MapSep)
			for _, k := range v.MapKeys() {
				parts = append(parts, fmt.Sprintf("%v=%v", k, v.MapIndex(k)))
			}
			slices.Sort(parts)
		}
		for _, p := range parts {
			if strings.Contains(p, sep) {
				return "", nimbus.Errorf(nimbus.CodeInvalid, "%q has a %q in it, which separates values in a setting", p, sep)
			}
		}
		return strings.Join(parts, sep), nil
	default:
		return fmt.Sprint(v), nil
	}
}
