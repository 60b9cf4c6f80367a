package cli

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
)

type jobTelemetryCmd struct {
	ID    string `arg:"" complete:"jobs" help:"Its id, or 'last'."`
	What  string `arg:"" optional:"" enum:"logs,metrics" default:"logs" help:"'logs' or 'metrics'."`
	Limit int    `within:"1..100000" help:"How many, at most." default:"200" placeholder:"N"`
}

func (*jobTelemetryCmd) Help() string {
	return "Log records, or points of metrics, that a job's processes sent to the receiver of OTLP in its sandbox, in the order in which they came. Spans are in `nimbus job trace`.\n\n" +
		usage("nimbus job telemetry last", "nimbus job telemetry last metrics --json | jq '.points[] | select(.name == \"gen_ai.client.token.usage\")'")
}

func (c *jobTelemetryCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	j, err := findJob(ctx, cl, c.ID)
	if err != nil {
		return err
	}
	const pageSize = 500
	var all nimbus.TelemetryPage
	for token := ""; ; {
		left := c.Limit - len(all.Logs) - len(all.Points)
		page, err := cl.Telemetry(ctx, j.ID, nimbus.Signal(c.What), min(left, pageSize), token)
		if err != nil {
			return err
		}
		all.Logs, all.Points, all.Next = append(all.Logs, page.Logs...), append(all.Points, page.Points...), page.Next
		if token = page.Next; token == "" || len(all.Logs)+len(all.Points) >= c.Limit {
			break
		}
	}
	if a.root.JSON {
		return a.printJSON(viewTelemetry(all))
	}
	return a.showTelemetry(c.What, all)
}

func (a *app) showTelemetry(what string, p nimbus.TelemetryPage) error {
	if len(p.Logs)+len(p.Points) == 0 {
		a.info("its processes sent no %s", what)
		return nil
	}
	var rows []string
	head := "TIME (UTC)\tSEVERITY\tSERVICE\tWHAT\tATTRIBUTES"
	for _, l := range p.Logs {
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%s\t%s", clock(l.At), terminal.OneLine(l.Severity), terminal.OneLine(l.Service),
			terminal.OneLine(strings.TrimSpace(l.EventName+" "+l.Body)), attributeWords(l.Attributes)))
	}
	for _, x := range p.Points {
		head = "TIME (UTC)\tNAME\tTYPE\tVALUE\tATTRIBUTES"
		value := number(x.Value)
		if x.Int != nil {
			value = strconv.FormatInt(*x.Int, 10)
		}
		if x.Type != "gauge" && x.Type != "sum" {
			value = fmt.Sprintf("%s in %d", value, x.Count)
		}
		if unit := terminal.OneLine(x.Unit); unit != "" && unit != "1" { // 1: of no dimension
			value += " " + unit
		}
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%s\t%s", clock(x.At), terminal.OneLine(x.Name), x.Type, value, attributeWords(x.Attributes)))
	}
	if err := a.table(head, rows); err != nil {
		return err
	}
	if p.Next != "" {
		a.info("there are more: --limit shows them")
	}
	return nil
}

// clock is when something was; "-" where nobody said.
func clock(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("15:04:05.000")
}

// number is a value as people read it: a count of bytes has all its digits.
func number(v float64) string {
	const most = 1e21
	if v == math.Trunc(v) && math.Abs(v) < most {
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}

// attributeWords are attributes in a line.
func attributeWords(attributes map[string]string) string {
	const most = 120
	var words []string
	for _, key := range slices.Sorted(maps.Keys(attributes)) {
		words = append(words, key+"="+attributes[key])
	}
	text := []rune(terminal.OneLine(strings.Join(words, " ")))
	if len(text) > most {
		return string(text[:most-1]) + "…"
	}
	return string(text)
}

type telemetryView struct {
	Logs   []telemetryLogView `json:"logs"`
	Points []metricPointView  `json:"points"`
	More   bool               `json:"more"`
}

type telemetryLogView struct {
	At         time.Time         `json:"at"`
	Severity   string            `json:"severity,omitempty"`
	EventName  string            `json:"event_name,omitempty"`
	Body       string            `json:"body,omitempty"`
	TraceID    string            `json:"trace_id,omitempty"`
	SpanID     string            `json:"span_id,omitempty"`
	Service    string            `json:"service,omitempty"`
	Attributes map[string]string `json:"attributes,omitempty"`
}

type metricPointView struct {
	At         time.Time         `json:"at"`
	Name       string            `json:"name"`
	Unit       string            `json:"unit,omitempty"`
	Type       string            `json:"type"`
	Value      float64           `json:"value"`
	Int        *int64            `json:"int_value,omitempty,string"` // who reads JSON may round numbers
	Count      int64             `json:"count,omitempty"`
	Service    string            `json:"service,omitempty"`
	Attributes map[string]string `json:"attributes,omitempty"`
}

func viewTelemetry(p nimbus.TelemetryPage) telemetryView {
	v := telemetryView{Logs: []telemetryLogView{}, Points: []metricPointView{}, More: p.Next != ""}
	for _, l := range p.Logs {
		v.Logs = append(v.Logs, telemetryLogView(l))
	}
	for _, x := range p.Points {
		v.Points = append(v.Points, metricPointView(x))
	}
	return v
}
