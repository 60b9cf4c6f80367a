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

// drainLook is how often a drain looks whether the machine runs nothing, and
// drainQuiet how long that must be so: an offer made just before the cordon may
// still be accepted.
const (
	drainLook  = time.Second
	drainQuiet = nimbus.OfferTimeout + 2*time.Second
)

type hostArg struct {
	Host string `arg:"" complete:"hosts" help:"Its id, or its name where no other host has that."`
}

type hostsCordonCmd struct{ hostArg }

func (*hostsCordonCmd) Help() string {
	return "What runs on it goes on.\n\n" + usage("nimbus hosts cordon rack-7", "nimbus hosts cordon host_01hx")
}

func (c *hostsCordonCmd) Run(ctx context.Context, a *app) error { return a.cordon(ctx, c.Host, true) }

type hostsUncordonCmd struct{ hostArg }

func (*hostsUncordonCmd) Help() string { return usage("nimbus hosts uncordon rack-7") }

func (c *hostsUncordonCmd) Run(ctx context.Context, a *app) error {
	return a.cordon(ctx, c.Host, false)
}

func (a *app) cordon(ctx context.Context, host string, cordoned bool) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	h, err := findHost(ctx, cl, host)
	if err != nil {
		return err
	}
	if err := cl.CordonHost(ctx, h.ID, cordoned); err != nil {
		return err
	}
	return a.printHost(ctx, cl, h.ID)
}

type hostsDrainCmd struct {
	hostArg
	Timeout time.Duration `within:"1s.." help:"How long to wait." default:"6h"`
}

func (*hostsDrainCmd) Help() string {
	return "Stopped early, it stays cordoned.\n\n" + usage("nimbus hosts drain rack-7", "nimbus hosts drain rack-7 --timeout 10m && nimbus hosts remove rack-7")
}

func (c *hostsDrainCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	h, err := findHost(ctx, cl, c.Host)
	if err != nil {
		return err
	}
	if err := cl.CordonHost(ctx, h.ID, true); err != nil {
		return err
	}
	tell := func(running int) { a.info("it runs %s still", terminal.Count(running, "job")) }
	if err := drained(ctx, cl, h.ID, c.Timeout, tell); err != nil {
		return err
	}
	return a.printHost(ctx, cl, h.ID)
}

// drained waits until a host that is cordoned has run nothing for drainQuiet,
// and tells each time that it runs more or fewer jobs.
func drained(ctx context.Context, cl *client.Client, id string, timeout time.Duration, tell func(running int)) error {
	end := time.NewTimer(timeout)
	defer end.Stop()
	look := time.NewTicker(drainLook)
	defer look.Stop()
	busy, told := time.Now(), 0
	for {
		h, err := findHost(ctx, cl, id)
		switch {
		case err != nil:
			return err
		case !h.Cordoned:
			return nimbus.Errorf(nimbus.CodeConflict, "the host was uncordoned meanwhile")
		case h.Running > 0:
			busy = time.Now()
			if h.Running != told {
				told = h.Running
				tell(told)
			}
		case time.Since(busy) >= drainQuiet:
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-end.C:
			return stillRuns(ctx, cl, h)
		case <-look.C:
		}
	}
}

// stillRuns says what keeps a host from being drained, and what to do about it:
// a job whose sandbox is held has ended, and can't be cancelled.
func stillRuns(ctx context.Context, cl *client.Client, h nimbus.Host) error {
	err := nimbus.Errorf(nimbus.CodeUnavailable, "the host still runs %s", terminal.Count(h.Running, "job")).
		WithHint("it stays cordoned: wait again, or cancel them; one that has ended but is held needs nimbus release")
	jobs, _, failed := cl.HostJobs(ctx)
	if failed != nil {
		return err
	}
	held, last := 0, ""
	for _, on := range jobs {
		if on.HostID != h.ID {
			continue
		}
		if j, failed := cl.Job(ctx, on.JobID); failed == nil && j.State == nimbus.StateFinished {
			held, last = held+1, j.ID
		}
	}
	switch held {
	case 0:
		return err
	case h.Running:
		err = nimbus.Errorf(nimbus.CodeUnavailable, "the host still holds the sandbox of %s", ended(held))
		return err.WithHint("it stays cordoned: wait again, or give the sandbox up: nimbus release %s", last)
	}
	return err.WithHint("it stays cordoned: wait again, or cancel them; the sandbox of %s is held: nimbus release %s", ended(held), last)
}

func ended(n int) string { return terminal.Count(n, "job") + " that ended" }

type hostsRemoveCmd struct {
	hostArg
	Force bool `help:"Give up what it runs: within a lease's length the jobs run elsewhere, or fail."`
}

func (*hostsRemoveCmd) Help() string {
	return "Its token ends with it; to come back it has to join anew.\n\n" + usage("nimbus hosts remove rack-7", "nimbus hosts remove host_01hx --force")
}

func (c *hostsRemoveCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	h, err := findHost(ctx, cl, c.Host)
	if err != nil {
		return err
	}
	if err := cl.RemoveHost(ctx, h.ID, c.Force); err != nil {
		return err
	}
	if a.root.JSON {
		return a.printJSON(struct {
			Removed string `json:"removed"`
		}{h.ID})
	}
	a.info("%s (%s) is removed", terminal.OneLine(h.Name), h.ID)
	return nil
}

func (a *app) printHost(ctx context.Context, cl *client.Client, id string) error {
	h, err := findHost(ctx, cl, id)
	if err != nil {
		return err
	}
	v := viewHost(h)
	if a.root.JSON {
		return a.printJSON(struct {
			Host hostView `json:"host"`
		}{v})
	}
	a.info("%s (%s) is %s and runs %s", terminal.OneLine(v.Name), v.ID, duty(v), terminal.Count(v.Running, "job"))
	return nil
}

// findHost finds a host by its id, or by its name. Codes: not_found, conflict
// for a name that several have: a machine that joined anew has the one of before
// beside it until that is removed.
func findHost(ctx context.Context, cl *client.Client, host string) (nimbus.Host, error) {
	hosts, err := cl.Hosts(ctx)
	if err != nil {
		return nimbus.Host{}, err
	}
	var named []nimbus.Host
	for _, h := range hosts {
		if h.ID == host {
			return h, nil
		}
		if h.Name == host {
			named = append(named, h)
		}
	}
	switch len(named) {
	case 0:
		return nimbus.Host{}, nimbus.Errorf(nimbus.CodeNotFound, "there is no host %q", host).WithHint("`nimbus hosts` lists them, with their names and ids")
	case 1:
		return named[0], nil
	}
	var ids []string
	for _, h := range named {
		ids = append(ids, fmt.Sprintf("%s (%s, seen %s)", h.ID, h.State, since(h.SeenAt)))
	}
	return nimbus.Host{}, nimbus.Errorf(nimbus.CodeConflict, "%d hosts are called %q: %s", len(named), host, strings.Join(ids, ", ")).WithHint("name the one that is meant by its id")
}
