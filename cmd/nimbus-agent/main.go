// Command nimbus-agent is the host agent alone, for machines that only run
// jobs. It is what `nimbus agent` is, without the rest.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"

	"github.com/alecthomas/kong"
	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/flagrange"
	"github.com/nimbus-ci/nimbus/internal/host"
	"github.com/nimbus-ci/nimbus/internal/programs"
	"github.com/nimbus-ci/nimbus/internal/systemd"
	"github.com/nimbus-ci/nimbus/internal/tlsfile"
)

// version is set by the linker.
var version = "devel"

type flags struct {
	Server   string `help:"Address of the control plane." env:"NIMBUS_SERVER" required:"" placeholder:"URL"`
	Data     string `help:"The agent's own directory." env:"NIMBUS_AGENT_DATA" default:"/var/lib/nimbus/agent" type:"path" placeholder:"DIR"`
	LogLevel string `help:"Least level of what is logged: ${enum}." enum:"debug,info,warn,error" default:"info" env:"NIMBUS_LOG_LEVEL"`
	tlsfile.ClientFlags
	host.Flags
	Version kong.VersionFlag `help:"Show the version."`
}

const description = `Runs jobs of a Nimbus control plane on this machine.

SIGTERM stops it; running jobs go on, and the next agent takes them over.

Example, on the control plane and then here:

    nimbus hosts token > join.token
    nimbus-agent --server https://nimbus.example.com --join-token-file join.token`

func main() {
	var f flags
	parsed := kong.Parse(&f, kong.Name("nimbus-agent"), kong.Description(description), kong.Vars{"version": version}, kong.Exit(leave))
	if err := flagrange.Check(parsed); err != nil {
		parsed.Errorf("%s", err)
		leave(badUsage)
	}
	if err := run(f); err != nil {
		fmt.Fprintln(os.Stderr, "nimbus-agent:", err)
		if hint := nimbus.ErrorHint(err); hint != "" {
			fmt.Fprintln(os.Stderr, "hint:", hint)
		}
		os.Exit(host.ExitCode(err))
	}
}

// badUsage is the exit code of nimbus for a command line that can't be understood.
const badUsage = 2

// leave ends the program once its help was shown, or with badUsage: there is
// nothing else that ends it while the command line is read.
func leave(code int) {
	if code != 0 {
		code = badUsage
	}
	os.Exit(code)
}

func run(f flags) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.LogLevel)); err != nil {
		return fmt.Errorf("log level: %w", err)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	encryption, err := f.Config()
	if err != nil {
		return err
	}
	a, err := f.Agent(ctx, f.Server, encryption, f.Data, version, programs.Finder{}, log)
	if err != nil {
		return err
	}
	if err := systemd.Joining(f.Server); err != nil {
		return err
	}
	return a.Run(ctx, func() {
		log.Info("ready")
		if err := systemd.Ready(f.Server); err != nil {
			log.Error("ready", "error", err)
		}
	})
}
