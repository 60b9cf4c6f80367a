package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
)

type jobCmd struct {
	Show  jobShowCmd  `cmd:"" default:"withargs" help:"Show a job, its timeline and its history."`
	Usage jobUsageCmd `cmd:"" help:"Show what a job used of its host over its time."`
	Trace jobTraceCmd `cmd:"" help:"Show a job's time, down to the spans that its processes sent."`

	Telemetry jobTelemetryCmd `cmd:"" help:"Show log records or metrics that a job's processes sent by OTLP."`
}

type jobShowCmd struct {
	ID string `arg:"" complete:"jobs" help:"Its id, or 'last'."`
}

func (*jobShowCmd) Help() string {
	return "Its history says who did each thing: a person, a host, GitHub or the system. A job that waits has a place, and a start that may be expected.\n\n" + usage("nimbus job last", "nimbus job job_01jd8w6j3m5y2x4k7q9r1t3v5z --json | jq .job.timeline")
}

func (c *jobShowCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	j, err := findJob(ctx, cl, c.ID)
	if err != nil {
		return err
	}
	j, place, err := cl.JobInLine(ctx, j.ID)
	if err != nil {
		return err
	}
	events, err := cl.Events(ctx, j.ID)
	if err != nil {
		return err
	}
	tries := attempts(events)
	if a.root.JSON {
		v := struct {
			Job      jobView       `json:"job"`
			Place    *placeView    `json:"place,omitempty"`
			Attempts []attemptView `json:"attempts"`
			Events   []eventView   `json:"events"`
		}{Job: viewJob(j), Place: viewPlace(place), Attempts: append([]attemptView{}, tries...), Events: []eventView{}}
		for _, e := range events {
			v.Events = append(v.Events, viewEvent(e))
		}
		return a.printJSON(v)
	}
	a.printJob(j)
	if place != nil {
		fmt.Fprintf(a.Out, "%-9s %s\n", "place", placeWords(*place, time.Now()))
	}
	fmt.Fprintln(a.Out)
	if err := a.printAttempts(tries); err != nil {
		return err
	}
	if err := a.printTimeline(j.Timeline); err != nil {
		return err
	}
	fmt.Fprintln(a.Out)
	var rows []string
	for _, e := range events {
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%s", e.At.Format("2006-01-02 15:04:05.000"), e.Kind, terminal.OneLine(e.Actor), terminal.OneLine(e.Detail)))
	}
	return a.table("TIME (UTC)\tEVENT\tACTOR\tDETAIL", rows)
}

// printJob writes what a job is and where it stands.
func (a *app) printJob(j nimbus.Job) {
	field := func(name, value string) {
		if value != "" {
			fmt.Fprintf(a.Out, "%-9s %s\n", name, value)
		}
	}
	fmt.Fprintln(a.Out, a.style.Bold(terminal.OneLine(j.Name)))
	field("id", j.ID)
	status := status(a.style, j)
	if j.ExitCode != nil {
		status += fmt.Sprintf(", exit code %d", *j.ExitCode)
	}
	field("status", status)
	field("reason", terminal.OneLine(j.Reason.Message))
	field("class", j.Class.String())
	field("labels", terminal.OneLine(strings.Join(j.Labels, " ")))
	for _, key := range slices.Sorted(maps.Keys(j.Metadata)) {
		field("meta", terminal.OneLine(strings.TrimSuffix(key+"="+j.Metadata[key], "=")))
	}
	field("command", terminal.OneLine(strings.Join(j.Spec.Command, " ")))
	field("repo", terminal.OneLine(j.Repo))
	field("page", terminal.OneLine(j.GitHub.HTMLURL))
	field("host", j.HostID)
	field("rerun of", j.RerunOf)
	if j.Priority != 0 {
		field("priority", fmt.Sprint(j.Priority))
	}
	if j.AttemptCount > 1 {
		field("attempts", fmt.Sprintf("%d of at most %d", j.AttemptCount, j.MaxAttempts))
	}
	if !j.HeldUntil.IsZero() {
		field("held", fmt.Sprintf("its sandbox stays on its host until %s: nimbus shell %s, nimbus release %s", j.HeldUntil.Local().Format("15:04:05"), j.ID, j.ID))
	}
	log := terminal.Count(int(j.LogLines), "line")
	if j.State == nimbus.StateFinished && !j.LogComplete {
		log += ", not complete"
	}
	field("log", log)
	if j.Usage != (nimbus.UsageTotals{}) {
		field("used", totalsWords(j.Usage))
	}
}
