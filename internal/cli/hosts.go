package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
)

type hostsCmd struct {
	List  hostsListCmd  `cmd:"" default:"withargs" help:"Show the machines that run jobs."`
	Top   hostsTopCmd   `cmd:"" help:"Show what hosts do, live."`
	Token hostsTokenCmd `cmd:"" help:"Make a token that lets one machine join, once."`

	Cordon   hostsCordonCmd   `cmd:"" help:"Give a machine no new jobs."`
	Uncordon hostsUncordonCmd `cmd:"" help:"Give a machine jobs again."`
	Drain    hostsDrainCmd    `cmd:"" help:"Give a machine no new jobs, and wait until it runs none."`
	Remove   hostsRemoveCmd   `cmd:"" help:"Take a machine away for good."`
}

type hostsListCmd struct{}

func (*hostsListCmd) Help() string {
	return "CPUs, memory and GPUs are what is free, as the host said last, of what it gives out. A host that is hard pressed is closed: it asks for no jobs until that has eased, and below it says why. A GPU that is out of service is in no figure, and below it says why. WARM is how many machines wait there for jobs. VERSION is of the host's agent; an older or newer one works as long as it is one version of the protocol away. RUNNER is GitHub's own runner in the host's image; below it says where a newer one is out, and from when on GitHub gives no jobs to that one.\n\n" +
		usage("nimbus hosts", "nimbus hosts --json | jq .hosts")
}

func (*hostsListCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	hosts, err := cl.Hosts(ctx)
	if err != nil {
		return err
	}
	v := struct {
		Hosts []hostView `json:"hosts"`
	}{Hosts: []hostView{}}
	for _, h := range hosts {
		v.Hosts = append(v.Hosts, viewHost(h))
	}
	if a.root.JSON {
		return a.printJSON(v)
	}
	if len(hosts) == 0 {
		a.info("no hosts: `nimbus hosts token` lets one join")
		return nil
	}
	var rows, notes []string
	for i, h := range v.Hosts {
		if h.Load.Closed != "" && h.State == nimbus.HostReady {
			notes = append(notes, fmt.Sprintf("%s asks for no jobs for now: %s", terminal.OneLine(h.Name), terminal.OneLine(h.Load.Why)))
		}
		if says := hosts[i].Runner.Says(time.Now()); says != "" {
			notes = append(notes, fmt.Sprintf("%s has GitHub's runner %s: %s", terminal.OneLine(h.Name), terminal.OneLine(h.Runner.Version), says))
		}
		for _, f := range h.GPUFaults {
			notes = append(notes, fmt.Sprintf("%s: %s is out of service: it %s", terminal.OneLine(h.Name), terminal.OneLine(f.GPU), terminal.OneLine(f.Why)))
		}
		var names []string
		for _, e := range h.Executors {
			if e.Available {
				names = append(names, e.Name)
			} else {
				notes = append(notes, unusable(h.Name, e))
			}
		}
		notes = append(notes, lacking(h)...)
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\t%s", h.ID, terminal.OneLine(h.Name), duty(h), since(h.SeenAt), free(h, h.Free.CPUs, max(h.CPUs, h.GivesCPUs)),
			free(h, h.Free.MemoryMiB, max(h.MemoryMiB, h.GivesMemory))+" MiB", gpus(h), h.Running, len(h.Free.Warm), version(h), runnerWord(h), strings.Join(names, ", "), strings.Join(h.Capabilities, ", ")))
	}
	if err := a.table("ID\tNAME\tSTATE\tSEEN\tCPUS\tMEMORY\tGPUS\tRUNNING\tWARM\tVERSION\tRUNNER\tEXECUTORS\tCAPABILITIES", rows); err != nil {
		return err
	}
	for _, note := range notes {
		a.info("%s", note)
	}
	return nil
}

// unusable is why jobs can't have an executor of a host.
func unusable(host string, e executorView) string {
	note := fmt.Sprintf("%s can't use %s: %s", terminal.OneLine(host), e.Name, terminal.OneLine(e.Detail))
	if e.Hint != "" {
		note += " (" + terminal.OneLine(e.Hint) + ")"
	}
	return note
}

// lacking are the words of a host that some of its executors' jobs don't have,
// in a line for all executors that lack the same.
func lacking(h hostView) (notes []string) {
	byWords := map[string][]string{}
	for _, e := range h.Executors {
		if e.Available && len(e.Lacks) > 0 {
			words := strings.Join(e.Lacks, ", ")
			byWords[words] = append(byWords[words], e.Name)
		}
	}
	for _, words := range slices.Sorted(maps.Keys(byWords)) {
		notes = append(notes, fmt.Sprintf("%s: jobs of %s have no %s there", terminal.OneLine(h.Name), strings.Join(byWords[words], ", "), words))
	}
	return notes
}

// duty is whether a host gets jobs, in a word or two.
func duty(h hostView) string {
	switch {
	case h.Cordoned:
		return string(h.State) + ", cordoned"
	case h.Load.Closed != "" && h.State == nimbus.HostReady:
		return string(h.State) + ", closed: " + terminal.OneLine(string(h.Load.Closed))
	}
	return string(h.State)
}

// version is of a host's agent, with what it speaks where that is not ours.
func version(h hostView) string {
	spoken := cmp.Or(h.Protocol, 1)
	switch v := terminal.OneLine(h.Version); {
	case spoken < nimbus.AgentProtocol:
		return v + " (older)"
	case spoken > nimbus.AgentProtocol:
		return v + " (newer)"
	default:
		return v
	}
}

// runnerWord is the version of GitHub's own runner on a host.
func runnerWord(h hostView) string {
	if h.Runner == nil {
		return "-"
	}
	return terminal.OneLine(h.Runner.Version)
}

// free is how much of something a host has free, "-" before it told.
func free(h hostView, n, of int) string {
	if h.Load.Closed != "" {
		return fmt.Sprintf("0/%d", of)
	}
	if h.Free.Sandboxes == 0 && h.Free.CPUs == 0 && h.Running == 0 {
		return fmt.Sprintf("-/%d", of)
	}
	return fmt.Sprintf("%d/%d", n, of)
}

// gpus are the GPUs of a host, free and in all.
func gpus(h hostView) string {
	var words []string
	for _, g := range h.GPUs {
		words = append(words, free(h, h.Free.GPUs[g.Profile], g.Count)+" "+g.Profile)
	}
	if len(words) == 0 {
		return "-"
	}
	return strings.Join(words, ", ")
}

type hostsTokenCmd struct {
	ValidFor time.Duration `within:"1s..24h" help:"How long it can be used, at most 24 h." default:"1h"`
}

func (*hostsTokenCmd) Help() string {
	return "The token is shown this once.\n\n" +
		usage("nimbus hosts token > join.token", "sudo nimbus agent install --server https://nimbus.example.com --join-token-file join.token")
}

func (c *hostsTokenCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	token, expires, err := cl.CreateJoinToken(ctx, c.ValidFor)
	if err != nil {
		return err
	}
	if a.root.JSON {
		return a.printJSON(struct {
			Token     string    `json:"token"`
			ExpiresAt time.Time `json:"expires_at"`
		}{token, expires})
	}
	fmt.Fprintln(a.Out, token)
	a.info("good for one host until %s", expires.Local().Format(time.RFC1123))
	return nil
}
