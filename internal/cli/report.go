package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
)

type reportCmd struct {
	Span time.Duration `within:"1h..2160h" help:"How far to look back, at most 90 days." default:"336h"`
}

func (*reportCmd) Help() string {
	return `Tells of the org's jobs that ended of late: how long each part of their lives took by class, how many found a sandbox that waited and how many failed, what takes longer than it did, and which jobs could do with less.
QUEUE is until a host accepted a job, SANDBOX until that was ready, START until the job ran, RUN to its end. Something takes longer if the median of the last quarter of the time is above that of the rest by a fifth and by more than chance, with 20 runs on both sides. A smaller size is advised where none of a job's last 20 to 50 runs would have been short of it.
Of a time with many jobs a sample is looked at.

` + usage("nimbus report", "nimbus report --span 48h --json | jq '.advice[] | {name, label, saved_hours}'")
}

func (c *reportCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	r, err := cl.Report(ctx, c.Span)
	if err != nil {
		return err
	}
	if a.root.JSON {
		return a.printJSON(viewReport(r))
	}
	if r.Runs == 0 {
		a.info("no job has ended in the last %s", roughly(c.Span))
		return nil
	}
	sample := ""
	if r.Sampled {
		sample = ", a sample"
	}
	fmt.Fprintf(a.Out, "%s since %s%s\n\n", terminal.Count(r.Runs, "job"), r.Since.Local().Format("2006-01-02 15:04"), sample)
	if err := a.printClasses(r.Classes); err != nil {
		return err
	}
	if err := a.printRegressions(r.Regressions); err != nil {
		return err
	}
	return a.printAdvice(r.Advice)
}

func (a *app) printClasses(classes []nimbus.ClassReport) error {
	var rows []string
	for _, c := range classes {
		row := []string{c.Class.String(), fmt.Sprint(c.Runs), shareOf(c.Failed, c.Runs), shareOf(c.Warm, c.Started)}
		for _, phase := range nimbus.RunPhases() {
			word := "-"
			for _, p := range c.Phases {
				if p.Phase == phase {
					word = fmt.Sprintf("%s/%s/%s", roughly(p.P50), roughly(p.P95), roughly(p.P99))
				}
			}
			row = append(row, word)
		}
		rows = append(rows, strings.Join(row, "\t"))
	}
	return a.table("CLASS\tJOBS\tFAILED\tWARM\tQUEUE p50/p95/p99\tSANDBOX\tSTART\tRUN", rows)
}

// shareOf is how many of some, "-" of none.
func shareOf(n, of int) string {
	if of == 0 {
		return "-"
	}
	const all = 100
	return fmt.Sprintf("%.1f %%", all*float64(n)/float64(of))
}

func (a *app) printRegressions(found []nimbus.Regression) error {
	if len(found) == 0 {
		return nil
	}
	fmt.Fprintf(a.Out, "\n%s\n", a.style.Bold("Takes longer since "+found[0].Since.Local().Format("2006-01-02 15:04")))
	var rows []string
	for _, g := range found {
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%s (%s)\t%s (%s)", g.Class, g.Phase, jobWords(g.Repo, g.Name), roughly(g.Before), terminal.Count(g.BeforeRuns, "run"),
			roughly(g.After), terminal.Count(g.AfterRuns, "run")))
	}
	return a.table("CLASS\tPART\tJOB\tBEFORE\tNOW", rows)
}

func (a *app) printAdvice(advice []nimbus.Advice) error {
	if len(advice) == 0 {
		return nil
	}
	fmt.Fprintf(a.Out, "\n%s\n", a.style.Bold("Could do with less"))
	var rows []string
	for _, d := range advice {
		what, unit := "%.1f of %d CPUs, at most %.1f", "CPU-hours"
		if d.Resource == nimbus.ResourceMemory {
			what, unit = "%.0f of %d MiB, at most %.0f", "GiB-hours"
		}
		rows = append(rows, fmt.Sprintf("%s\t%s\t"+what+"\t%s\t%s\t%.2f %s", jobWords(d.Repo, d.Name), d.Class, d.Mean, d.Has, d.Most,
			terminal.Count(d.Runs, "run"), d.Label, d.SavedHours, unit))
	}
	return a.table("JOB\tCLASS\tUSED\tIN\tENOUGH\tSAVES", rows)
}

// jobWords is a job by its repository and name, "-" for all of a class.
func jobWords(repo, name string) string {
	if name == "" {
		return "-"
	}
	return clip(terminal.OneLine(strings.TrimPrefix(repo+": "+name, ": ")))
}

type reportView struct {
	Since       time.Time         `json:"since"`
	Until       time.Time         `json:"until"`
	Runs        int               `json:"runs"`
	Sampled     bool              `json:"sampled,omitempty"`
	Classes     []classReportView `json:"classes"`
	Regressions []regressionView  `json:"regressions"`
	Advice      []adviceView      `json:"advice"`
}

type classReportView struct {
	Class   classView                         `json:"class"`
	Runs    int                               `json:"runs"`
	Failed  int                               `json:"failed"`
	Started int                               `json:"started"` // of how many it is known where their sandboxes came from
	Warm    int                               `json:"warm"`    // and how many of these had waited
	Phases  map[nimbus.RunPhase]phaseTimeView `json:"phases"`
}

type phaseTimeView struct {
	Runs       int     `json:"runs"`
	P50Seconds float64 `json:"p50_seconds"`
	P95Seconds float64 `json:"p95_seconds"`
	P99Seconds float64 `json:"p99_seconds"`
}

type regressionView struct {
	Class         classView       `json:"class"`
	Phase         nimbus.RunPhase `json:"phase"`
	Name          string          `json:"name,omitempty"`
	Repo          string          `json:"repo,omitempty"`
	Since         time.Time       `json:"since"`
	BeforeRuns    int             `json:"before_runs"`
	BeforeSeconds float64         `json:"before_seconds"`
	AfterRuns     int             `json:"after_runs"`
	AfterSeconds  float64         `json:"after_seconds"`
}

type adviceView struct {
	Name       string          `json:"name"`
	Repo       string          `json:"repo,omitempty"`
	Class      classView       `json:"class"`
	Resource   nimbus.Resource `json:"resource"`
	Runs       int             `json:"runs"`
	Has        int             `json:"has"`
	Enough     int             `json:"enough"`
	Mean       float64         `json:"mean"`
	Most       float64         `json:"most"`
	SavedHours float64         `json:"saved_hours"`
	Label      string          `json:"label"`
}

func viewReport(r nimbus.Report) reportView {
	v := reportView{Since: r.Since, Until: r.Until, Runs: r.Runs, Sampled: r.Sampled,
		Classes: []classReportView{}, Regressions: []regressionView{}, Advice: []adviceView{}}
	for _, c := range r.Classes {
		of := classReportView{Class: viewClass(c.Class), Runs: c.Runs, Failed: c.Failed, Started: c.Started, Warm: c.Warm, Phases: map[nimbus.RunPhase]phaseTimeView{}}
		for _, p := range c.Phases {
			of.Phases[p.Phase] = phaseTimeView{Runs: p.Runs, P50Seconds: p.P50.Seconds(), P95Seconds: p.P95.Seconds(), P99Seconds: p.P99.Seconds()}
		}
		v.Classes = append(v.Classes, of)
	}
	for _, g := range r.Regressions {
		v.Regressions = append(v.Regressions, regressionView{Class: viewClass(g.Class), Phase: g.Phase, Name: g.Name, Repo: g.Repo, Since: g.Since,
			BeforeRuns: g.BeforeRuns, BeforeSeconds: g.Before.Seconds(), AfterRuns: g.AfterRuns, AfterSeconds: g.After.Seconds()})
	}
	for _, d := range r.Advice {
		v.Advice = append(v.Advice, adviceView{Name: d.Name, Repo: d.Repo, Class: viewClass(d.Class), Resource: d.Resource, Runs: d.Runs, Has: d.Has,
			Enough: d.Enough, Mean: d.Mean, Most: d.Most, SavedHours: d.SavedHours, Label: d.Label})
	}
	return v
}
