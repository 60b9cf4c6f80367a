package cli

import (
	"context"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/examples"
	"github.com/nimbus-ci/nimbus/internal/demo"
	"github.com/nimbus-ci/nimbus/internal/host"
)

// demoFlags are those of `nimbus up --demo`.
type demoFlags struct {
	Demo bool   `help:"Show a push, its jobs and their logs with a double of GitHub, offline; exits with 0 when every job ended as expected, 1 when not, 2 when that takes more than 8 minutes."`
	Keep bool   `help:"With --demo: go on until Ctrl-C, to look at the dashboard."`
	Repo string `help:"With --demo: push this folder instead of the example." type:"existingdir" placeholder:"DIR"`
}

// exitHung is the exit code of a demo that did not end in time.
const exitHung = 2

func (c *demoFlags) run(ctx context.Context, a *app, up *upCmd, data string) error {
	project, err := c.project()
	if err != nil {
		return err
	}
	cfg := demo.Config{
		Data: filepath.Join(data, "demo"), Project: project, Keep: c.Keep, AllowTrustedLocal: up.AllowTrustedLocal,
		Host: host.Config{Version: a.version, Executors: up.Executors, Programs: finder(data), StandIn: true},
		Out:  a.Out, Style: a.style, Log: a.demoLog(),
	}
	if err := up.Apply(&cfg.Host); err != nil {
		return err
	}
	if cfg.Host.Images == "" {
		cfg.Host.Images = filepath.Join(data, "images")
	}
	if a.root.JSON {
		cfg.Out, cfg.Style = a.Err, a.errStyle
	}
	outcome, err := demo.Run(ctx, cfg)
	if err != nil {
		return err
	}
	if a.root.JSON {
		if err := a.printJSON(viewDemo(outcome)); err != nil {
			return err
		}
	}
	switch {
	case outcome.Hung:
		return &exitError{code: exitHung}
	case len(outcome.Problems) > 0:
		return &exitError{code: ExitFailure}
	}
	return nil
}

// project is the folder to push.
func (c *demoFlags) project() (fs.FS, error) {
	if c.Repo == "" {
		return fs.Sub(examples.Hello, "hello")
	}
	project := os.DirFS(c.Repo)
	if _, err := fs.Stat(project, ".github/workflows"); err != nil {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "%s has no workflows: %w", c.Repo, err).WithHint("a workflow is a file in .github/workflows")
	}
	return project, nil
}

// demoLog keeps the show free of what services tell, unless it was asked for.
func (a *app) demoLog() *slog.Logger {
	if a.root.LogLevel == "info" {
		return slog.New(slog.NewTextHandler(a.Err, &slog.HandlerOptions{Level: slog.LevelError}))
	}
	return a.logger()
}

type demoView struct {
	Jobs     []demoJobView `json:"jobs"`
	Problems []string      `json:"problems"`
	Hung     bool          `json:"hung"`
}

type demoJobView struct {
	jobView

	Expected nimbus.Result `json:"expected"`
}

func viewDemo(o demo.Outcome) demoView {
	v := demoView{Jobs: []demoJobView{}, Problems: o.Problems, Hung: o.Hung}
	if v.Problems == nil {
		v.Problems = []string{}
	}
	for _, j := range o.Jobs {
		v.Jobs = append(v.Jobs, demoJobView{jobView: viewJob(j.Job), Expected: j.Expected})
	}
	return v
}
