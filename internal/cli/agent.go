package cli

import (
	"context"
	"path/filepath"

	"github.com/nimbus-ci/nimbus/internal/host"
	"github.com/nimbus-ci/nimbus/internal/programs"
	"github.com/nimbus-ci/nimbus/internal/programs/embedded"
	"github.com/nimbus-ci/nimbus/internal/systemd"
)

type agentCmd struct {
	Start     agentRunCmd       `cmd:"" name:"run" default:"withargs" help:"Run jobs on this machine."`
	Install   agentInstallCmd   `cmd:"" help:"Make the agent a service of this machine, or upgrade it."`
	Uninstall agentUninstallCmd `cmd:"" help:"Take the service away."`
}

type agentRunCmd struct {
	host.Flags `embed:""`
}

func (*agentRunCmd) Help() string {
	return `Runs jobs on this machine for the control plane at --server. SIGTERM stops it: jobs that run go on, and the next agent takes them over if it comes within 25 s: later their leases are over, and the jobs are lost.

` + usage("nimbus agent --server https://nimbus.example.com --join-token-file join.token", "nimbus agent --executors microvm --cpus 8")
}

func (c *agentRunCmd) Run(ctx context.Context, a *app) error {
	ctx, stop := untilSignal(ctx)
	defer stop()
	data, err := a.root.dataDir()
	if err != nil {
		return err
	}
	encryption, err := a.root.Config()
	if err != nil {
		return err
	}
	log := a.logger()
	ag, err := c.Agent(ctx, a.root.Server, encryption, filepath.Join(data, "agent"), a.version, finder(data), log)
	if err != nil {
		return err
	}
	if err := systemd.Joining(a.root.Server); err != nil {
		return err
	}
	err = ag.Run(ctx, func() {
		log.InfoContext(ctx, "ready", "server", a.root.Server)
		if err := systemd.Ready(a.root.Server); err != nil {
			log.ErrorContext(ctx, "ready", "error", err)
		}
	})
	if code := host.ExitCode(err); code == ExitUnknownHost {
		return &exitError{code: code, err: err}
	}
	return err
}

// finder finds the programs that nimbus starts, unpacking those it carries.
func finder(data string) programs.Finder {
	return programs.Finder{Embedded: embedded.Programs(), Dir: filepath.Join(data, "programs")}
}
