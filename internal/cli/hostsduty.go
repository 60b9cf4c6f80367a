package cli

import (
	"context"
	"slices"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
)

// drainLook is how often a drain looks whether the machine runs nothing, and
// drainQuiet how long that must be so: an offer made just before the cordon may
// still be accepted.
const (
	drainLook  = time.Second
	drainQuiet = nimbus.OfferTimeout + 2*time.Second
)

type hostArg struct {
	ID string `arg:"" help:"Its id."`
}

type hostsCordonCmd struct{ hostArg }

func (*hostsCordonCmd) Help() string {
	return "What runs on it goes on.\n\n" + usage("nimbus hosts cordon host_01hx")
}

func (c *hostsCordonCmd) Run(ctx context.Context, a *app) error { return a.cordon(ctx, c.ID, true) }

type hostsUncordonCmd struct{ hostArg }

func (*hostsUncordonCmd) Help() string { return usage("nimbus hosts uncordon host_01hx") }

func (c *hostsUncordonCmd) Run(ctx context.Context, a *app) error { return a.cordon(ctx, c.ID, false) }

func (a *app) cordon(ctx context.Context, id string, cordoned bool) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := cl.CordonHost(ctx, id, cordoned); err != nil {
		return err
	}
	return a.printHost(ctx, cl, id)
}

type hostsDrainCmd struct {
	hostArg
	Timeout time.Duration `help:"How long to wait." default:"6h"`
}

func (*hostsDrainCmd) Help() string {
	return "Stopped early, it stays cordoned.\n\n" + usage("nimbus hosts drain host_01hx", "nimbus hosts drain host_01hx --timeout 10m && nimbus hosts remove host_01hx")
}

func (c *hostsDrainCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := cl.CordonHost(ctx, c.ID, true); err != nil {
		return err
	}
	tell := func(running int) { a.info("it runs %d jobs still", running) }
	if err := drained(ctx, cl, c.ID, c.Timeout, tell); err != nil {
		return err
	}
	return a.printHost(ctx, cl, c.ID)
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
			return nimbus.Errorf(nimbus.CodeUnavailable, "the host still runs %d jobs", h.Running).WithHint("it stays cordoned: wait again, or cancel them")
		case <-look.C:
		}
	}
}

type hostsRemoveCmd struct {
	hostArg
	Force bool `help:"Give up what it runs: within a lease's length the jobs run elsewhere, or fail."`
}

func (*hostsRemoveCmd) Help() string {
	return "Its token ends with it; to come back it has to join anew.\n\n" + usage("nimbus hosts remove host_01hx", "nimbus hosts remove host_01hx --force")
}

func (c *hostsRemoveCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := cl.RemoveHost(ctx, c.ID, c.Force); err != nil {
		return err
	}
	if a.root.JSON {
		return a.printJSON(struct {
			Removed string `json:"removed"`
		}{c.ID})
	}
	a.info("%s is removed", c.ID)
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
	a.info("%s is %s and runs %d jobs", v.ID, duty(v), v.Running)
	return nil
}

func findHost(ctx context.Context, cl *client.Client, id string) (nimbus.Host, error) {
	hosts, err := cl.Hosts(ctx)
	if err != nil {
		return nimbus.Host{}, err
	}
	i := slices.IndexFunc(hosts, func(h nimbus.Host) bool { return h.ID == id })
	if i < 0 {
		return nimbus.Host{}, nimbus.Errorf(nimbus.CodeNotFound, "there is no such host").WithHint("`nimbus hosts` lists them")
	}
	return hosts[i], nil
}
