package cli

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/mattn/go-isatty"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
)

// topLook is how often the live table is made anew: hosts tell what jobs use every
// five seconds or so.
const topLook = 2 * time.Second

type hostsTopCmd struct {
	Once bool `help:"Show it once, on a terminal too."`
}

func (*hostsTopCmd) Help() string {
	return "A live table of the hosts and of what each of them runs, with what each job uses of the CPUs and the memory that it has, as its host told some seconds ago. CPU, MEM and IO are the shares of the time in which work waited for them; CACHE is what the host keeps of the cache, and how many of the contents that jobs asked for came from there. Ctrl-C ends it. Where the output is no terminal, and with --json, it is shown once.\n\n" +
		usage("nimbus hosts top", "nimbus hosts top --json | jq '.jobs[] | select(.cpus_used < 0.1)'")
}

func (c *hostsTopCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	out, ok := a.Out.(*os.File)
	if c.Once || a.root.JSON || !ok || !isatty.IsTerminal(out.Fd()) {
		t, err := lookAtTop(ctx, cl)
		if err != nil {
			return err
		}
		if a.root.JSON {
			return a.printJSON(t.view())
		}
		_, err = a.Out.Write(t.text(time.Now()))
		return err
	}
	return a.watchTop(ctx, cl)
}

// watchTop shows the table until Ctrl-C. While the server does not answer, the
// last one stays, and says how old it is.
func (a *app) watchTop(ctx context.Context, cl *client.Client) error {
	ctx, stop := untilSignal(ctx)
	defer stop()
	const home, wipeLine, wipeRest = "\x1b[H", "\x1b[K", "\x1b[J"
	tick := time.NewTicker(topLook)
	defer tick.Stop()
	var last top
	for {
		t, err := lookAtTop(ctx, cl)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			last = t
		case last.at.IsZero() || nimbus.ErrorCode(err) != nimbus.CodeUnavailable:
			return err
		}
		text := last.text(time.Now())
		if err != nil {
			text = append(text, fmt.Sprintf("\n%s\n", terminal.OneLine(err.Error()))...)
		}
		text = bytes.ReplaceAll(text, []byte("\n"), []byte(wipeLine+"\n"))
		if _, err := fmt.Fprintf(a.Out, "%s%s%s", home, text, wipeRest); err != nil {
			return fmt.Errorf("write the table: %w", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// top is what hosts do at a time.
type top struct {
	at    time.Time
	hosts []nimbus.Host
	jobs  []nimbus.HostJob
	more  bool
}

func lookAtTop(ctx context.Context, cl *client.Client) (t top, err error) {
	t.at = time.Now()
	if t.hosts, err = cl.Hosts(ctx); err != nil {
		return t, err
	}
	t.jobs, t.more, err = cl.HostJobs(ctx)
	return t, err
}

// text is the table: each host, and below it what it runs.
func (t top) text(now time.Time) []byte {
	var out bytes.Buffer
	running := 0
	for _, h := range t.hosts {
		running += h.Running
	}
	fmt.Fprintf(&out, "%s, %s, %s\n\n", terminal.Count(len(t.hosts), "host"), terminal.Count(running, "job"), t.at.Format("15:04:05"))
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "HOST / JOB\tSTATE\tCPUS\tMEMORY\tCPU\tMEM\tIO\tDISK\tCACHE\tSINCE")
	for _, h := range t.hosts {
		v := viewHost(h)
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", clip(terminal.OneLine(h.Name)), duty(v), taken(v, v.Free.CPUs, max(v.CPUs, v.GivesCPUs)),
			taken(v, v.Free.MemoryMiB, max(v.MemoryMiB, v.GivesMemory))+" MiB", percent(v.Load.CPU), percent(v.Load.Memory), percent(v.Load.IO), percent(v.Load.Disk), cacheWord(v.Copies),
			"seen "+since(h.SeenAt))
		for _, j := range t.jobs {
			if j.HostID != h.ID {
				continue
			}
			cpus, memory := fmt.Sprintf("-/%d", j.Class.CPUs), fmt.Sprintf("-/%d MiB", j.Class.MemoryMiB)
			if !j.ToldAt.IsZero() {
				cpus, memory = fmt.Sprintf("%.2f/%d", j.CPUs, j.Class.CPUs), fmt.Sprintf("%d/%d MiB", j.MemoryBytes>>20, j.Class.MemoryMiB)
			}
			fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t\t\t\t\t\t%s\n", clip(terminal.OneLine(j.Name)), j.JobID, cpus, memory, roughly(now.Sub(j.AcceptedAt)))
		}
	}
	_ = w.Flush() // into memory
	if t.more {
		fmt.Fprintf(&out, "\nonly the first %s are shown\n", terminal.Count(len(t.jobs), "job"))
	}
	return out.Bytes()
}

// taken is how much of what a host gives out jobs have, "-" before it told.
func taken(h hostView, free, of int) string {
	switch {
	case h.Load.Closed != "": // it says that nothing is free, whatever it runs
		return fmt.Sprintf("?/%d", of)
	case h.Free.Sandboxes == 0 && h.Free.CPUs == 0 && h.Running == 0:
		return fmt.Sprintf("-/%d", of)
	}
	return fmt.Sprintf("%d/%d", of-free, of)
}

// cacheWord is what a host keeps of the cache, and how often that was of use.
func cacheWord(c *copiesView) string {
	if c == nil {
		return "-"
	}
	return size(c.Bytes) + ", " + hits(c.Hits, c.Misses, c.HitRatio)
}

func percent(v float64) string { return fmt.Sprintf("%.0f %%", v) }

type hostJobView struct {
	HostID      string     `json:"host_id"`
	JobID       string     `json:"job_id"`
	OrgID       string     `json:"org_id"`
	AttemptID   string     `json:"attempt_id"`
	Name        string     `json:"name"`
	Repo        string     `json:"repo,omitempty"`
	Class       classView  `json:"class"`
	AcceptedAt  time.Time  `json:"accepted_at"`
	ToldAt      *time.Time `json:"told_at,omitempty"`
	CPUsUsed    float64    `json:"cpus_used"`
	MemoryBytes int64      `json:"memory_bytes"`
}

type topView struct {
	Hosts []hostView    `json:"hosts"`
	Jobs  []hostJobView `json:"jobs"`
	More  bool          `json:"more,omitempty"`
}

func (t top) view() topView {
	v := topView{Hosts: []hostView{}, Jobs: []hostJobView{}, More: t.more}
	for _, h := range t.hosts {
		v.Hosts = append(v.Hosts, viewHost(h))
	}
	for _, j := range t.jobs {
		v.Jobs = append(v.Jobs, hostJobView{HostID: j.HostID, JobID: j.JobID, OrgID: j.OrgID, AttemptID: j.AttemptID, Name: j.Name, Repo: j.Repo,
			Class: viewClass(j.Class), AcceptedAt: j.AcceptedAt, ToldAt: timeView(j.ToldAt), CPUsUsed: j.CPUs, MemoryBytes: j.MemoryBytes})
	}
	return v
}
