// Package cli is the command line. Each command is a struct in a file of its
// own: its fields are its flags, its Help shows how it is used, its Run does
// the work. The reference page docs/cli.md is made of the same structs.
//
// Data goes to stdout, information to stderr. With --json both are stable:
// snake_case names, times in RFC 3339, errors as {"error":{…}}.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/alecthomas/kong"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
	"github.com/nimbus-ci/nimbus/internal/flagrange"
	"github.com/nimbus-ci/nimbus/internal/tlsfile"
)

// Streams are what a command line talks to.
type Streams struct {
	Out, Err io.Writer
}

// root is the whole command line.
type root struct {
	Server    string `group:"global" help:"Address of the server." env:"NIMBUS_SERVER" default:"http://127.0.0.1:8080" placeholder:"URL"`
	TokenFile string `group:"global" help:"File with the token; NIMBUS_TOKEN holds the token itself. Default: admin.token in the data directory." env:"NIMBUS_TOKEN_FILE" type:"path" placeholder:"FILE"`
	Org       string `group:"global" help:"Org to act in, by name or id. Default: the first that one is in." env:"NIMBUS_ORG" placeholder:"ORG"`

	tlsfile.ClientFlags `embed:"" group:"global"`

	Data     string `group:"global" help:"Data directory. Default: /var/lib/nimbus for root, otherwise ~/.local/state/nimbus." env:"NIMBUS_DATA" type:"path" placeholder:"DIR"`
	JSON     bool   `group:"global" help:"Write JSON to stdout, and errors as JSON to stderr."`
	LogLevel string `group:"global" help:"Least level of what is logged: ${enum}." enum:"debug,info,warn,error" default:"info" env:"NIMBUS_LOG_LEVEL"`
	LogJSON  bool   `group:"global" help:"Log as JSON." env:"NIMBUS_LOG_JSON"`

	Run      runCmd       `cmd:"" help:"Run a command in a sandbox, with the files of this directory." group:"jobs"`
	Jobs     jobsCmd      `cmd:"" help:"List jobs, newest first." group:"jobs"`
	Job      jobCmd       `cmd:"" help:"Show a job, its timeline and its history." group:"jobs"`
	Logs     logsCmd      `cmd:"" help:"Show a job's log, or set up where logs are kept for long." group:"jobs"`
	Cancel   cancelCmd    `cmd:"" help:"Stop a job." group:"jobs"`
	Shell    shellCmd     `cmd:"" help:"Open a terminal in a job's sandbox, or show what was recorded of one." group:"jobs"`
	SSH      shellOpenCmd `cmd:"" name:"ssh" help:"The same as nimbus shell: a terminal in a job's sandbox." group:"jobs"`
	Release  releaseCmd   `cmd:"" help:"Give up the sandbox of a job that is held after its failure." group:"jobs"`
	Rerun    rerunCmd     `cmd:"" help:"Run a job again that has ended." group:"jobs"`
	Priority priorityCmd  `cmd:"" help:"Move a waiting job before or behind others of the org." group:"jobs"`
	Orgs     orgsCmd      `cmd:"" help:"Show or change the orgs of the platform." group:"people"`
	Users    usersCmd     `cmd:"" help:"Show who has which role in the org, or change it." group:"people"`
	Accounts accountsCmd  `cmd:"" name:"service-accounts" aliases:"accounts" help:"Show or change the programs that have a role in the org." group:"people"`
	Tokens   tokensCmd    `cmd:"" help:"Make tokens, show or revoke them." group:"people"`
	Repos    reposCmd     `cmd:"" help:"Show the repositories of the org, or move one." group:"people"`

	Queue   queueCmd   `cmd:"" help:"Show what waits and runs." group:"service"`
	Limits  limitsCmd  `cmd:"" help:"Show or bound how many jobs may be on hosts at once." group:"service"`
	Report  reportCmd  `cmd:"" help:"Show how the org's jobs go, what takes longer than it did, and what could do with less." group:"service"`
	Cache   cacheCmd   `cmd:"" help:"Show what jobs saved for later ones, remove it, or say how much is kept." group:"service"`
	Reruns  rerunsCmd  `cmd:"" help:"Show or set whether lost jobs of GitHub's are run again by themselves." group:"service"`
	Weights weightsCmd `cmd:"" help:"Show or set who gets how much when there is more to do than hosts can." group:"service"`
	Hosts   hostsCmd   `cmd:"" help:"Show the machines that run jobs, or let one join." group:"service"`
	Images  imagesCmd  `cmd:"" help:"Show or build what microVMs boot." group:"service"`

	Snapshots snapshotsCmd `cmd:"" help:"Show or make what microVMs are made of without booting." group:"service"`

	Registry registryCmd `cmd:"" help:"Show or remove the images that were pushed here." group:"service"`

	GitHub     githubCmd     `cmd:"" name:"github" help:"Connect GitHub Apps." group:"service"`
	Migrate    migrateCmd    `cmd:"" help:"Move a project's workflow files to Nimbus." group:"jobs"`
	Audit      auditCmd      `cmd:"" help:"Read and verify the audit ledger." group:"service"`
	Up         upCmd         `cmd:"" help:"Start everything on this machine." group:"service"`
	Replica    serverCmd     `cmd:"" name:"server" help:"Start one of many replicas of the control plane." group:"service"`
	Agent      agentCmd      `cmd:"" help:"Run jobs on this machine for a server elsewhere." group:"service"`
	Keys       keysCmd       `cmd:"" help:"Show or rotate the master key, which secrets are sealed with." group:"service"`
	Backup     backupCmd     `cmd:"" help:"Keep the database of this machine's server in a file." group:"service"`
	Restore    restoreCmd    `cmd:"" help:"Bring a backup back." group:"service"`
	Login      loginCmd      `cmd:"" help:"Make a link that signs a browser in, once." group:"service"`
	Completion completionCmd `cmd:"" help:"Write a script that has a shell complete command lines." group:"service"`

	Doctor  doctorCmd  `cmd:"" help:"Look at what this machine, or GitHub, lacks." group:"service"`
	Version versionCmd `cmd:"" help:"Show the version." group:"service"`
}

const description = "Runs CI jobs on machines that you own, each in a fresh sandbox."

// parser makes the parser of r. exit is called after --help was shown.
func parser(r *root, s Streams, exit func(int)) (*kong.Kong, error) {
	return kong.New(r,
		kong.Name("nimbus"), kong.Description(description), kong.Writers(s.Out, s.Err), kong.Exit(exit), limitVars(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, FlagsLast: true}),
		kong.ExplicitGroups([]kong.Group{
			{Key: "jobs", Title: "Jobs:"},
			{Key: "people", Title: "Orgs and people:"},
			{Key: "service", Title: "Service:"},
			{Key: "global", Title: "Flags of every command:"},
		}),
	)
}

// helpShown leaves the parser once it has shown its help.
type helpShown struct{ code int }

// Main runs one command line, without the program's name, and returns its exit
// code.
func Main(ctx context.Context, version string, args []string, s Streams) (code int) {
	defer func() {
		if r := recover(); r != nil {
			shown, ok := r.(helpShown)
			if !ok {
				panic(r)
			}
			code = shown.code
		}
	}()
	var r root
	a := &app{Streams: s, version: version, root: &r, style: terminal.StyleOf(s.Out), errStyle: terminal.StyleOf(s.Err)}
	p, err := parser(&r, s, func(code int) { panic(helpShown{code}) })
	if err != nil {
		return a.fail(fmt.Errorf("build the command line: %w", err))
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	if args[0] == "help" { // as people ask it: nimbus help hosts drain
		args = append(slices.Clone(args[1:]), "--help")
	}
	if args[0] == completeWord {
		return a.complete(ctx, p, args[1:])
	}
	parsed, err := p.Parse(args)
	if err != nil {
		// The parser stopped before it knew all flags.
		r.JSON = r.JSON || slices.Contains(beforeDashes(args), "--json")
		var stopped *kong.ParseError
		if errors.As(err, &stopped) && stopped.Context != nil {
			a.command = stopped.Context.Selected()
		}
		return a.fail(badUsage(err))
	}
	a.command = parsed.Selected()
	if err := flagrange.Check(parsed); err != nil {
		return a.fail(badUsage(err))
	}
	parsed.BindTo(ctx, (*context.Context)(nil))
	if err := parsed.Run(a); err != nil {
		return a.fail(err)
	}
	return ExitOK
}

func beforeDashes(args []string) []string {
	if i := slices.Index(args, "--"); i >= 0 {
		return args[:i]
	}
	return args
}

// dataDir is the data directory, whether it exists or not.
func (r *root) dataDir() (string, error) {
	if r.Data != "" {
		return r.Data, nil
	}
	if os.Geteuid() == 0 {
		return "/var/lib/nimbus", nil
	}
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "nimbus"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", nimbus.Errorf(nimbus.CodeInvalid, "no data directory is known: %w", err).WithHint("name one with --data")
	}
	return filepath.Join(home, ".local", "state", "nimbus"), nil
}
