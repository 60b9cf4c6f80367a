package host

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/nimbus-ci/nimbus/internal/agent"
	"github.com/nimbus-ci/nimbus/internal/programs"
)

// Flags are the command line of an agent: of `nimbus agent`, and of the lean
// nimbus-agent.
type Flags struct {
	JoinTokenFile string   `help:"File with the token that lets this host join; needed once." env:"NIMBUS_JOIN_TOKEN_FILE" type:"path" placeholder:"FILE"`
	Name          string   `help:"How the host is called. Default: the machine's name." env:"NIMBUS_HOST_NAME" placeholder:"NAME"`
	Executors     []string `help:"Executors to use: microvm, local. Default: all." env:"NIMBUS_EXECUTORS" placeholder:"NAME"`
	CPUs          int      `name:"cpus" help:"How many CPUs jobs may take together. Default: all." env:"NIMBUS_CPUS" placeholder:"N"`
	MemoryMiB     int      `name:"memory" help:"How much memory jobs may take together, in MiB. Default: three quarters." env:"NIMBUS_MEMORY" placeholder:"MIB"`
}

// Agent makes the agent that the flags ask for.
func (f Flags) Agent(ctx context.Context, server, data, version string, p programs.Finder, log *slog.Logger) (*agent.Agent, error) {
	var token []byte
	if f.JoinTokenFile != "" {
		var err error
		if token, err = os.ReadFile(f.JoinTokenFile); err != nil {
			return nil, fmt.Errorf("read join token: %w", err)
		}
	}
	return New(ctx, Config{
		Server: server, Data: data, Name: f.Name, Version: version, JoinToken: string(bytes.TrimSpace(token)),
		CPUs: f.CPUs, MemoryMiB: f.MemoryMiB, Executors: f.Executors, Programs: p, Log: log,
	})
}
