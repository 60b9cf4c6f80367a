package demo

import (
	"fmt"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
)

// report prints a timeline per job and notes what did not end as expected.
func (d *demo) report() {
	d.screen.say("")
	for _, j := range d.outcome.Jobs {
		d.screen.say("%s", d.timeline(j))
		if problem := d.judge(j); problem != "" {
			d.problem("%s", problem)
		}
	}
	for _, id := range d.runIDs {
		if run, ok := d.double.Run(id); ok && run.Status != "completed" && !d.outcome.Hung {
			d.problem("for GitHub the run %q has not ended", terminal.OneLine(run.Workflow))
		}
	}
	if len(d.outcome.Jobs) == 0 {
		d.problem("no job came of the push")
	}
	for _, v := range d.double.Violations() {
		d.problem("the double of GitHub complains: %s", terminal.OneLine(v))
	}
}

func (d *demo) problem(format string, args ...any) {
	d.outcome.Problems = append(d.outcome.Problems, fmt.Sprintf(format, args...))
}

// judge says in a sentence what is wrong with how a job ended, "" for nothing.
func (d *demo) judge(j Job) string {
	name := terminal.OneLine(j.Name)
	switch {
	case j.State == nimbus.StateUnschedulable:
		return fmt.Sprintf("%s could not run: %s", name, terminal.OneLine(j.Reason.Message))
	case j.State != nimbus.StateFinished:
		return fmt.Sprintf("%s has not ended: it is %s", name, j.State)
	case j.Result != j.Expected:
		return strings.TrimSuffix(fmt.Sprintf("%s ended with %s, expected was %s: %s", name, j.Result, j.Expected, terminal.OneLine(j.Reason.Message)), ": ")
	case j.Result == nimbus.ResultFailure && j.ExitCode == nil:
		return fmt.Sprintf("%s was meant to fail, but by itself: %s", name, terminal.OneLine(j.Reason.Message))
	case j.Timeline.DestroyedAt.IsZero():
		return fmt.Sprintf("the sandbox of %s was not destroyed", name)
	case !j.LogComplete:
		return fmt.Sprintf("the log of %s is not complete", name)
	}
	return ""
}

// timeline is one job's way in milliseconds from the webhook's arrival.
func (d *demo) timeline(j Job) string {
	t := j.Timeline
	var points []string
	for _, p := range []struct {
		name string
		at   time.Time
	}{
		{"received", t.ReceivedAt},
		{"admitted", t.AdmittedAt},
		{"offered", t.OfferedAt},
		{"accepted", t.AcceptedAt},
		{"sandbox ready", t.SandboxReadyAt},
		{"first output", t.FirstOutputAt},
		{"finished", t.FinishedAt},
		{"destroyed", t.DestroyedAt},
	} {
		at := fmt.Sprintf("%d ms", p.at.Sub(t.ReceivedAt).Milliseconds())
		if p.at.IsZero() {
			at = "–"
		} else if p.at.Before(t.ReceivedAt) {
			at = "before" // the attempt was begun for another job
		}
		points = append(points, d.Style.Quiet(p.name+" ")+at)
	}
	end := string(j.State)
	if j.State == nimbus.StateFinished {
		end = string(j.Result)
	}
	if j.ExitCode != nil {
		end += fmt.Sprintf(", exit code %d", *j.ExitCode)
	}
	if d.judge(j) == "" {
		end = d.Style.Good("✓ " + end)
	} else {
		end = d.Style.Bad("✗ " + end)
	}
	return d.Style.Bold(fmt.Sprintf("%-*s ", tagWidth, terminal.OneLine(j.Name))) + end + "\n  " + strings.Join(points, d.Style.Quiet(" → "))
}

// conclude says how it all ended.
func (d *demo) conclude() {
	d.screen.say("")
	for _, p := range d.outcome.Problems {
		d.screen.say("%s", d.Style.Bad("✗ "+p))
	}
	switch {
	case d.outcome.Hung:
		d.screen.say("%s", d.Style.Bad(fmt.Sprintf("Not all had ended after %s.", Deadline)))
	case len(d.outcome.Problems) == 0:
		d.screen.say("%s", d.Style.Good("Every job ended as expected, and nothing of them is left on this machine."))
	}
}
