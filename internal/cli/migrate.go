package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pmezard/go-difflib/difflib"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/images/runner"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
	"github.com/nimbus-ci/nimbus/internal/migrate"
	"github.com/nimbus-ci/nimbus/internal/wholefile"
)

type migrateCmd struct {
	Workflows migrateWorkflowsCmd `cmd:"" help:"Rewrite runs-on of a project's workflow files."`
}

type migrateWorkflowsCmd struct {
	Dir    string `arg:"" optional:"" help:"A project, or a folder of workflow files." default:"." type:"path"`
	DryRun bool   `help:"Change nothing: show what would be changed, as a diff."`
	CPUs   int    `within:"1..512" help:"CPUs of a job that has GitHub's standard runner now." name:"cpu" default:"2" placeholder:"N"`
	Memory int    `within:"1..4096" help:"Its memory." default:"8" placeholder:"GIB"`
	Usage  string `help:"The organisation's usage report, CSV, to estimate what machines are needed." type:"path" placeholder:"FILE"`
}

func (*migrateWorkflowsCmd) Help() string {
	return `Looks at each job of each workflow file, rewrites runs-on of those that Nimbus can run, and says why of the others: services, containers, Windows, macOS, labels that aren't GitHub's. Comments, spacing and all else in the files stay as they are. Where a matrix names the runners, those that Nimbus has are looked up and the others stay at GitHub.
What a job will find otherwise than on GitHub's runners is said too, as far as it can be read from the file. What is in git can be taken back with git.

` + usage(
		"nimbus migrate workflows --dry-run",
		"nimbus migrate workflows ~/src/project --cpu 4 --memory 16",
		"nimbus migrate workflows --dry-run --usage usage-report.csv",
	)
}

// migration is what --json writes.
type migration struct {
	Files   []migrate.File `json:"files"`
	Written bool           `json:"written"`
	Usage   *migrate.Usage `json:"usage,omitempty"`
}

func (c *migrateWorkflowsCmd) Run(_ context.Context, a *app) error {
	size := migrate.Size{CPUs: c.CPUs, MemoryGiB: c.Memory}
	paths, err := workflowFiles(c.Dir)
	if err != nil {
		return err
	}
	out := migration{Written: !c.DryRun}
	for _, path := range paths { // all are looked at before the first is changed
		f, err := lookAtWorkflow(path, size, c.DryRun)
		if err != nil { // the others are none the worse for it
			f = migrate.File{Path: path, Trouble: err.Error(), Jobs: []migrate.Job{}}
		}
		out.Files = append(out.Files, f)
	}
	if c.Usage != "" {
		if out.Usage, err = readUsage(c.Usage, size); err != nil {
			return err
		}
	}
	if !c.DryRun {
		if err := writeWorkflows(out.Files); err != nil {
			return err
		}
	}
	if a.root.JSON {
		if err := a.printJSON(out); err != nil {
			return err
		}
	} else if err := c.show(a, out); err != nil {
		return err
	}
	for _, f := range out.Files {
		if f.Trouble != "" {
			a.info("left alone: %s", terminal.OneLine(f.Trouble))
			err = &exitError{code: ExitFailure}
		}
	}
	return err
}

// lookAtWorkflow reads a file, and looks what becomes of it. One that could not be
// written is said to be in the way now, before others are.
func lookAtWorkflow(path string, size migrate.Size, dryRun bool) (migrate.File, error) {
	info, err := os.Lstat(path)
	switch {
	case err != nil:
		return migrate.File{}, fmt.Errorf("look at a workflow: %w", err)
	case info.Mode()&fs.ModeSymlink != 0:
		return migrate.File{}, nimbus.Errorf(nimbus.CodeInvalid, "%s is a link: change the file that it leads to", path)
	case !info.Mode().IsRegular():
		return migrate.File{}, nimbus.Errorf(nimbus.CodeInvalid, "%s is no file", path)
	case info.Size() > migrate.MaxFile:
		return migrate.File{}, nimbus.Errorf(nimbus.CodeTooLarge, "%s is larger than %d KiB", path, migrate.MaxFile>>10)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return migrate.File{}, fmt.Errorf("read a workflow: %w", err)
	}
	f, err := migrate.Workflow(path, text, size, runner.Packages())
	if err == nil && f.Changed() && !dryRun && info.Mode().Perm()&0o222 == 0 {
		err = nimbus.Errorf(nimbus.CodeForbidden, "%s may not be written to", path)
	}
	return f, err
}

// workflowFiles are those of a project, or those in a folder.
func workflowFiles(dir string) ([]string, error) {
	for _, folder := range []string{filepath.Join(dir, ".github", "workflows"), dir} {
		entries, err := os.ReadDir(folder)
		if errors.Is(err, fs.ErrNotExist) && folder != dir {
			continue
		}
		if err != nil {
			return nil, nimbus.Errorf(nimbus.CodeInvalid, "the folder can't be read: %w", err)
		}
		var paths []string
		for _, e := range entries {
			if ext := filepath.Ext(e.Name()); !e.IsDir() && (ext == ".yml" || ext == ".yaml") {
				paths = append(paths, filepath.Join(folder, e.Name()))
			}
		}
		if len(paths) > 0 {
			return paths, nil
		}
	}
	return nil, nimbus.Errorf(nimbus.CodeNotFound, "there are no workflow files in %s", dir).
		WithHint("name a project that has .github/workflows, or that folder")
}

func readUsage(path string, size migrate.Size) (*migrate.Usage, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "the usage report can't be read: %w", err)
	}
	defer f.Close()
	u, err := migrate.ReadUsage(f, size)
	return &u, err
}

// writeWorkflows replaces each file that changed, whole or not at all.
func writeWorkflows(files []migrate.File) error {
	for _, f := range files {
		if !f.Changed() {
			continue
		}
		if err := replaceFile(f.Path, f.After); err != nil {
			return fmt.Errorf("write a workflow: %w", err)
		}
	}
	return nil
}

func replaceFile(path string, text []byte) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return wholefile.Write(path, text, info.Mode().Perm())
}

func (c *migrateWorkflowsCmd) show(a *app, m migration) error {
	counts := map[migrate.Verdict]int{}
	for _, f := range m.Files {
		fmt.Fprintln(a.Out, a.style.Bold(f.Path))
		if f.Trouble != "" {
			fmt.Fprintf(a.Out, "  %s\n", a.style.Warn("– left alone"))
		}
		for _, j := range f.Jobs {
			counts[j.Verdict]++
			showMigratedJob(a, j)
		}
		if c.DryRun && f.Changed() {
			if err := showDiff(a, f); err != nil {
				return err
			}
		}
	}
	if u := m.Usage; u != nil {
		fmt.Fprintf(a.Out, "\n%s %.0f minutes on Linux in %d days, %.2f at GitHub; %.0f on others, which stay\n", a.style.Bold("usage"),
			u.LinuxMinutes, u.Days, u.LinuxCost, u.OtherMinutes)
		fmt.Fprintf(a.Out, "      %.1f CPUs busy on average; %.0f if all of it is done in 40 hours of a week\n", u.AverageCPUs, u.WorkingCPUs)
	}
	verb := "moved"
	if c.DryRun {
		verb = "would move"
	}
	a.info("%d jobs %s, %d stay, %d ask for Nimbus already, %d call other workflows", counts[migrate.Moves], verb,
		counts[migrate.Stays], counts[migrate.Already], counts[migrate.Calls])
	return nil
}

func showMigratedJob(a *app, j migrate.Job) {
	text := map[migrate.Verdict]string{
		migrate.Moves: a.style.Good("✓ moves"), migrate.Stays: a.style.Warn("– stays"),
		migrate.Already: a.style.Quiet("✓ already"), migrate.Calls: a.style.Quiet("→ calls"),
	}[j.Verdict]
	if j.After != "" {
		text += "  " + a.style.Quiet(j.Before+" →") + " " + j.After
	}
	fmt.Fprintf(a.Out, "  %s  %s\n", a.style.Bold(j.ID), text)
	for _, n := range j.Notes {
		fmt.Fprintf(a.Out, "      line %d: %s\n", n.Line, n.Message)
		if n.Hint != "" {
			fmt.Fprintf(a.Out, "      %s\n", a.style.Quiet(n.Hint))
		}
	}
}

func showDiff(a *app, f migrate.File) error {
	text, err := difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
		A: difflib.SplitLines(string(f.Before)), B: difflib.SplitLines(string(f.After)),
		FromFile: f.Path, ToFile: f.Path, Context: 1,
	})
	if err != nil {
		return fmt.Errorf("compare: %w", err)
	}
	for line := range strings.Lines(strings.TrimSuffix(text, "\n")) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case slices.Contains([]string{"--- ", "+++ "}, line[:min(4, len(line))]):
			line = a.style.Quiet(line)
		case strings.HasPrefix(line, "+"):
			line = a.style.Good(line)
		case strings.HasPrefix(line, "-"):
			line = a.style.Bad(line)
		}
		fmt.Fprintln(a.Out, "    "+line)
	}
	return nil
}
