package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/alecthomas/kong"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
	"github.com/nimbus-ci/nimbus/internal/server"
)

// maxTokenBytes bounds what is read as a token.
const maxTokenBytes = 4 << 10

// app is what commands share.
type app struct {
	Streams
	version  string
	root     *root
	command  *kong.Node     // that was named; nil for none
	style    terminal.Style // of Out
	errStyle terminal.Style // of Err
}

// connect makes a client of the server that the flags name.
func (a *app) connect() (*client.Client, error) {
	token, err := a.token()
	if err != nil {
		return nil, err
	}
	encryption, err := a.root.Config()
	if err != nil {
		return nil, err
	}
	return client.New(client.Config{Server: a.root.Server, Token: token, Org: a.root.Org, TLS: encryption})
}

// token comes from the environment or a file, never from the command line,
// which every user of the machine can read.
func (a *app) token() (string, error) {
	if token := os.Getenv("NIMBUS_TOKEN"); token != "" {
		return token, nil
	}
	path := a.root.TokenFile
	if path == "" {
		dir, err := a.root.dataDir()
		if err != nil {
			return "", err
		}
		path = filepath.Join(dir, server.AdminTokenFile)
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return "", nimbus.Errorf(nimbus.CodeUnauthenticated, "there is no token: %w", err).
			WithHint("set NIMBUS_TOKEN or --token-file; on the server's own machine, --data names its data directory")
	}
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxTokenBytes))
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	return strings.TrimSpace(string(raw)), nil
}

// info tells a person something that is not the command's result.
func (a *app) info(format string, args ...any) { fmt.Fprintf(a.Err, format+"\n", args...) }

// printJSON writes one JSON value, and a newline, to stdout.
func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.Out)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// table writes rows of tab-separated cells in columns.
func (a *app) table(header string, rows []string) error {
	w := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, header)
	for _, row := range rows {
		fmt.Fprintln(w, row)
	}
	return w.Flush()
}

// logger logs to stderr as the flags say.
func (a *app) logger() *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(a.root.LogLevel)); err != nil {
		level = slog.LevelInfo // the flag is an enum: can't happen
	}
	opts := &slog.HandlerOptions{Level: level}
	if a.root.LogJSON {
		return slog.New(slog.NewJSONHandler(a.Err, opts))
	}
	return slog.New(slog.NewTextHandler(a.Err, opts))
}

// untilSignal ends with SIGTERM, or Ctrl-C. A second one ends the process.
func untilSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// findJob finds a job by its id, or the newest by "last".
func findJob(ctx context.Context, c *client.Client, id string) (nimbus.Job, error) {
	if id != "last" {
		return c.Job(ctx, id)
	}
	page, err := c.Jobs(ctx, client.JobFilter{PageSize: 1})
	if err != nil {
		return nimbus.Job{}, err
	}
	if len(page.Jobs) == 0 {
		return nimbus.Job{}, nimbus.Errorf(nimbus.CodeNotFound, "there are no jobs yet").WithHint("run one: nimbus run -- echo hello")
	}
	return page.Jobs[0], nil
}
