package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
)

type jobsSummaryCmd struct {
	By     string            `help:"By the values of this key of their metadata: what labels like param:KEY=VALUE and meta:KEY keep with them." placeholder:"KEY"`
	Since  moment            `help:"Only jobs from this time on: 90m, 7d, 2026-05-01 or 2026-05-01T12:00:00Z. Default: 7d." placeholder:"TIME"`
	Until  moment            `help:"Only jobs from before this time." placeholder:"TIME"`
	Bucket string            `help:"Part of the time that each point of a trend is of: hour or day, of UTC. Default: hour for up to 2 days." enum:",hour,day" default:"" placeholder:"PART"`
	Label  []string          `help:"Only jobs with this label; may be repeated." sep:"none" placeholder:"LABEL"`
	Meta   map[string]string `help:"Only jobs with this metadata; KEY= stands for any value. May be repeated." mapsep:"none" placeholder:"KEY=VALUE"`
	Repo   string            `help:"Only jobs of this repository." placeholder:"OWNER/NAME"`
}

func (*jobsSummaryCmd) Help() string {
	return `Without --by it tells which keys there are. FAILED are those that failed, timed out or were lost, OPEN those that have not ended, or can't be run. RUN is how long those took that ran to an end: the median, and what 95 percent did not exceed.
TREND is how many jobs there were in each part of the time, against the most of the row; FAILING which share of them failed, from none to all.
At most 90 days are looked at, the newest 50,000 jobs, and the 20 values with the most jobs.

` + usage(
		"nimbus jobs summary",
		"nimbus jobs summary --by model --since 30d",
		"nimbus jobs summary --by model --label gpu --repo octo/hello --since 24h --bucket hour",
		"nimbus jobs summary --by seed --meta model=llama-3 --json | jq '.values[] | {value, jobs, failed}'",
	)
}

func (c *jobsSummaryCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	s, err := cl.Summary(ctx, client.SummaryFilter{Since: c.Since.Time, Until: c.Until.Time, Key: c.By, Bucket: nimbus.JobBucket(c.Bucket),
		Labels: c.Label, Metadata: c.Meta, Repo: c.Repo})
	if err != nil {
		return err
	}
	if a.root.JSON {
		return a.printJSON(viewSummary(s))
	}
	return a.printSummary(c.By, s)
}

func (a *app) printSummary(key string, s nimbus.Summary) error {
	const minute = "2006-01-02 15:04"
	if s.All.Jobs == 0 {
		with := ""
		if key != "" {
			with = " with " + key
		}
		a.info("no jobs%s since %s", with, s.Since.Local().Format(minute))
		return nil
	}
	if !s.CompleteSince.IsZero() {
		a.info("only the newest %d jobs, those since %s: a shorter time, a label or --repo leaves fewer", s.All.Jobs, s.CompleteSince.Local().Format(minute))
	}
	head := "JOBS\tSUCCEEDED\tFAILED\tCANCELLED\tOPEN\tRUN p50/p95\tTREND by " + string(s.Bucket) + "\tFAILING"
	if key == "" {
		if err := a.table(head, []string{outcomeRow(s.All)}); err != nil {
			return err
		}
		return a.printKeys(s)
	}
	var rows []string
	for _, v := range s.Values {
		value := clip(terminal.OneLine(v.Value))
		if v.Value == "" {
			value = "-"
		}
		rows = append(rows, value+"\t"+outcomeRow(v.JobsOutcome))
	}
	if s.OtherValues > 0 {
		rows = append(rows, fmt.Sprintf("(other values: %d)\t%s", s.OtherValues, outcomeRow(s.Other)))
	}
	if len(rows) > 1 {
		rows = append(rows, "(all)\t"+outcomeRow(s.All))
	}
	return a.table(strings.ToUpper(key)+"\t"+head, rows)
}

func (a *app) printKeys(s nimbus.Summary) error {
	if len(s.Keys) == 0 {
		return nil
	}
	fmt.Fprintf(a.Out, "\n%s\n", a.style.Bold("Keys of metadata, for --by"))
	var rows []string
	for _, k := range s.Keys {
		rows = append(rows, fmt.Sprintf("%s\t%d\t%d", clip(terminal.OneLine(k.Key)), k.Jobs, k.Values))
	}
	if s.OtherKeys > 0 {
		rows = append(rows, fmt.Sprintf("(other keys: %d)", s.OtherKeys))
	}
	return a.table("KEY\tJOBS\tVALUES", rows)
}

func outcomeRow(o nimbus.JobsOutcome) string {
	run := "-"
	if o.Runs > 0 {
		run = roughly(o.P50) + "/" + roughly(o.P95)
	}
	trend, failing := trendWords(o.Trend)
	return fmt.Sprintf("%d\t%d\t%d\t%d\t%d\t%s\t%s\t%s", o.Jobs, o.Succeeded, o.Failed, o.Cancelled, o.Open, run, trend, failing)
}

// trendWidth is how many characters a trend has at most.
const trendWidth = 31

// trendWords draws how many jobs there were against the most, and which share of
// them failed. A part without jobs is a dot, and any failure is more than the
// least bar.
func trendWords(trend []nimbus.TrendPart) (jobs, failing string) {
	var parts []nimbus.JobsCount
	each := (len(trend) + trendWidth - 1) / trendWidth // so many parts are one character
	most := 0
	for i, p := range trend {
		if i%each == 0 {
			parts = append(parts, nimbus.JobsCount{})
		}
		sum := &parts[len(parts)-1]
		sum.Jobs += p.Jobs
		sum.Failed += p.Failed
		most = max(most, sum.Jobs)
	}
	var drawn, shares strings.Builder
	for _, p := range parts {
		if p.Jobs == 0 {
			drawn.WriteRune('·')
			shares.WriteRune('·')
			continue
		}
		drawn.WriteRune(barOf(p.Jobs, most))
		shares.WriteRune(barOf(p.Failed, p.Jobs))
	}
	return drawn.String(), shares.String()
}

// barOf is n of most as a character, the least of which is for none.
func barOf(n, most int) rune {
	bars := []rune("▁▂▃▄▅▆▇█")
	top := len(bars) - 1
	return bars[(n*top+most-1)/most]
}

type summaryView struct {
	Since         time.Time         `json:"since"`
	Until         time.Time         `json:"until"`
	Bucket        nimbus.JobBucket  `json:"bucket"`
	CompleteSince *time.Time        `json:"complete_since,omitempty"` // only jobs since then were looked at: there were too many
	All           outcomeView       `json:"all"`
	Values        []valueView       `json:"values,omitempty"`
	OtherValues   int               `json:"other_values,omitempty"`
	Other         *outcomeView      `json:"other,omitempty"`
	Keys          []metadataKeyView `json:"keys,omitempty"`
	OtherKeys     int               `json:"other_keys,omitempty"`
}

type valueView struct {
	Value string `json:"value"` // "" for the key alone
	outcomeView
}

type outcomeView struct {
	countView
	Runs       int             `json:"runs"` // of so many it is known how long they ran
	P50Seconds float64         `json:"p50_seconds,omitempty"`
	P95Seconds float64         `json:"p95_seconds,omitempty"`
	Trend      []trendPartView `json:"trend"`
}

type trendPartView struct {
	StartAt time.Time `json:"start_at"`
	countView
}

type countView struct {
	Jobs      int `json:"jobs"`
	Succeeded int `json:"succeeded"`
	Failed    int `json:"failed"`
	Cancelled int `json:"cancelled"`
	Open      int `json:"open"`
}

type metadataKeyView struct {
	Key    string `json:"key"`
	Jobs   int    `json:"jobs"`
	Values int    `json:"values"`
}

func viewSummary(s nimbus.Summary) summaryView {
	v := summaryView{Since: s.Since, Until: s.Until, Bucket: s.Bucket, CompleteSince: timeView(s.CompleteSince), All: viewOutcome(s.All),
		OtherValues: s.OtherValues, OtherKeys: s.OtherKeys}
	for _, value := range s.Values {
		v.Values = append(v.Values, valueView{value.Value, viewOutcome(value.JobsOutcome)})
	}
	if s.OtherValues > 0 {
		other := viewOutcome(s.Other)
		v.Other = &other
	}
	for _, k := range s.Keys {
		v.Keys = append(v.Keys, metadataKeyView(k))
	}
	return v
}

func viewOutcome(o nimbus.JobsOutcome) outcomeView {
	v := outcomeView{countView: countView(o.JobsCount), Runs: o.Runs, P50Seconds: o.P50.Seconds(), P95Seconds: o.P95.Seconds(), Trend: []trendPartView{}}
	for _, p := range o.Trend {
		v.Trend = append(v.Trend, trendPartView{StartAt: p.Start, countView: countView(p.JobsCount)})
	}
	return v
}
