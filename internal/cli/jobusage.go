package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
)

type jobUsageCmd struct {
	ID      string `arg:"" complete:"jobs" help:"Its id, or 'last'."`
	Attempt string `help:"The id of an earlier attempt; without it, the current or last one."`
}

func (*jobUsageCmd) Help() string {
	return "What the job's sandbox used of its host over its time, measured once a second from outside: of a microVM that is the whole machine with its monitor, from when the job got it. Of a job that runs, it is some seconds old. Long series are summed up; --json has every point.\n\n" +
		usage("nimbus job usage last", "nimbus job usage job_01jd8w6j3m5y2x4k7q9r1t3v5z --json | jq .totals.cpu_seconds")
}

func (c *jobUsageCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	j, err := findJob(ctx, cl, c.ID)
	if err != nil {
		return err
	}
	u, err := cl.Usage(ctx, j.ID, c.Attempt)
	if err != nil {
		return err
	}
	if a.root.JSON {
		return a.printJSON(viewUsage(u))
	}
	return a.showUsage(u)
}

// showUsage prints a series with what it comes to; of a short job there is only
// that.
func (a *app) showUsage(u client.Usage) error {
	if len(u.Series.Points) == 0 && u.Totals == (nimbus.UsageTotals{}) {
		a.info("nothing is known of what it used: no host has run it, or its host could not measure it")
		return nil
	}
	fmt.Fprintf(a.Out, "%s\n%s\n\n", a.style.Bold(u.AttemptID), totalsWords(u.Totals))
	if len(u.Series.Points) == 0 {
		a.info("there is no more of it: it was too short for a series")
		return nil
	}
	head, accelerated := "UNTIL\tCPUS\tMEMORY\tREAD\tWRITTEN\tSENT\tRECEIVED", u.Totals.GPU != nimbus.GPUTotals{}
	if accelerated {
		head += "\tGPUS\tGPU MEMORY\tGPU POWER"
	}
	var rows []string
	for _, r := range ratesOf(u.Series, usageRows) {
		row := fmt.Sprintf("%s\t%.2f\t%s\t%s/s\t%s/s\t%s/s\t%s/s", r.at.Round(time.Second), r.cpus, size(r.memory),
			size(r.read), size(r.written), size(r.sent), size(r.received))
		if accelerated {
			row += fmt.Sprintf("\t%.2f\t%s\t%.0f W", r.gpus, size(r.gpuMemory), r.gpuWatts)
		}
		rows = append(rows, row)
	}
	return a.table(head, rows)
}

// usageRows is how many rows a series is summed up to.
const usageRows = 20

// rates is what was used between two moments: memory at its highest, all else in
// the mean, a second.
type rates struct {
	at                                    time.Duration
	cpus                                  float64
	memory, read, written, sent, received int64
	gpus, gpuWatts                        float64
	gpuMemory                             int64
}

// ratesOf sums a series up to at most so many rows of about the same length.
func ratesOf(s nimbus.UsageSeries, most int) (rows []rates) {
	var from nimbus.UsageSample
	var memory, gpuMemory int64
	for i, p := range s.Points {
		memory, gpuMemory = max(memory, p.MemoryBytes), max(gpuMemory, p.GPU.MemoryBytes)
		if (i+1)*most/len(s.Points) == i*most/len(s.Points) {
			continue
		}
		d := p.Since(from)
		seconds := max(d.At.Seconds(), 0.001)
		rate := func(n int64) int64 { return int64(float64(n) / seconds) }
		rows = append(rows, rates{at: p.At, cpus: d.CPU.Seconds() / seconds, memory: memory,
			read: rate(d.ReadBytes), written: rate(d.WrittenBytes), sent: rate(d.SentBytes), received: rate(d.ReceivedBytes),
			gpus: d.GPU.Busy.Seconds() / seconds, gpuWatts: float64(d.GPU.Millijoules) / 1000 / seconds, gpuMemory: gpuMemory})
		from, memory, gpuMemory = p, 0, 0
	}
	return rows
}

// totalsWords is what was used in all, in a line.
func totalsWords(t nimbus.UsageTotals) string {
	words := []string{fmt.Sprintf("%.1f s of CPU (at most %.1f at once)", t.CPUTime.Seconds(), t.PeakCPUs), "at most " + size(t.PeakMemoryBytes) + " of memory",
		"disk " + size(t.ReadBytes) + " read, " + size(t.WrittenBytes) + " written"}
	if t.SentBytes+t.ReceivedBytes > 0 {
		words = append(words, "network "+size(t.SentBytes)+" sent, "+size(t.ReceivedBytes)+" received")
	}
	if g := t.GPU; g != (nimbus.GPUTotals{}) {
		words = append(words, fmt.Sprintf("GPUs worked for %.1f s, at most %s of their memory, %.1f Wh", g.Busy.Seconds(), size(g.PeakMemoryBytes), wattHours(g.Millijoules)))
	}
	return strings.Join(words, "; ")
}

func wattHours(millijoules int64) float64 { return float64(millijoules) / 3.6e6 }

// size is a number of bytes as people say it.
func size(n int64) string {
	const step = 1024
	v, units := float64(n), []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for v >= step && i < len(units)-1 {
		v, i = v/step, i+1
	}
	if i == 0 || v >= 100 {
		return fmt.Sprintf("%.0f %s", v, units[i])
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}

type usageTotalsView struct {
	CPUSeconds      float64 `json:"cpu_seconds"`
	PeakCPUs        float64 `json:"peak_cpus"` // in the mean of about ten seconds
	PeakMemoryBytes int64   `json:"peak_memory_bytes"`
	ReadBytes       int64   `json:"read_bytes"`
	WrittenBytes    int64   `json:"written_bytes"`
	SentBytes       int64   `json:"sent_bytes"`
	ReceivedBytes   int64   `json:"received_bytes"`

	GPU *gpuTotalsView `json:"gpu,omitempty"`
}

// gpuTotalsView is of all GPUs of a job together.
type gpuTotalsView struct {
	BusySeconds     float64 `json:"busy_seconds"`
	PeakMemoryBytes int64   `json:"peak_memory_bytes"`
	Joules          float64 `json:"joules"`
}

func viewTotals(t nimbus.UsageTotals) usageTotalsView {
	v := usageTotalsView{CPUSeconds: t.CPUTime.Seconds(), PeakCPUs: t.PeakCPUs, PeakMemoryBytes: t.PeakMemoryBytes, ReadBytes: t.ReadBytes,
		WrittenBytes: t.WrittenBytes, SentBytes: t.SentBytes, ReceivedBytes: t.ReceivedBytes}
	if g := t.GPU; g != (nimbus.GPUTotals{}) {
		v.GPU = &gpuTotalsView{BusySeconds: g.Busy.Seconds(), PeakMemoryBytes: g.PeakMemoryBytes, Joules: float64(g.Millijoules) / 1000}
	}
	return v
}

type usagePointView struct {
	AtSeconds     float64 `json:"at_seconds"`
	CPUSeconds    float64 `json:"cpu_seconds"`
	MemoryBytes   int64   `json:"memory_bytes"`
	ReadBytes     int64   `json:"read_bytes"`
	WrittenBytes  int64   `json:"written_bytes"`
	SentBytes     int64   `json:"sent_bytes"`
	ReceivedBytes int64   `json:"received_bytes"`

	GPUSeconds     float64 `json:"gpu_seconds,omitempty"`
	GPUMemoryBytes int64   `json:"gpu_memory_bytes,omitempty"`
	GPUJoules      float64 `json:"gpu_joules,omitempty"`
}

type usageView struct {
	AttemptID   string           `json:"attempt_id,omitempty"`
	Totals      usageTotalsView  `json:"totals"`
	StartAt     *time.Time       `json:"start_at,omitempty"`
	StepSeconds float64          `json:"step_seconds,omitempty"`
	Points      []usagePointView `json:"points"`
}

func viewUsage(u client.Usage) usageView {
	v := usageView{AttemptID: u.AttemptID, Totals: viewTotals(u.Totals), Points: []usagePointView{}}
	if len(u.Series.Points) > 0 {
		v.StartAt, v.StepSeconds = &u.Series.Start, u.Series.Step.Seconds()
	}
	for _, p := range u.Series.Points {
		v.Points = append(v.Points, usagePointView{AtSeconds: p.At.Seconds(), CPUSeconds: p.CPU.Seconds(), MemoryBytes: p.MemoryBytes,
			ReadBytes: p.ReadBytes, WrittenBytes: p.WrittenBytes, SentBytes: p.SentBytes, ReceivedBytes: p.ReceivedBytes,
			GPUSeconds: p.GPU.Busy.Seconds(), GPUMemoryBytes: p.GPU.MemoryBytes, GPUJoules: float64(p.GPU.Millijoules) / 1000})
	}
	return v
}
