package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
)

type cacheWarmCmd struct {
	cacheFilterFlags

	Host  []string      `help:"Only this host, by its name or id; more than once for several. Otherwise all that may get jobs now." placeholder:"HOST"`
	Limit int           `within:"1..200" help:"How many entries at most, the newest." default:"50" short:"n"`
	GiB   float64       `within:"0.001..1048576" help:"How many GiB of them at most, on each host." name:"gib" default:"10"`
	Wait  bool          `help:"Wait until the hosts have told what became of it; fail unless they have all of it."`
	For   time.Duration `within:"1s..1h" help:"With --wait: for how long at most." default:"15m"`
}

func (*cacheWarmCmd) Help() string {
	return "The newest entries are asked for; those of pull requests only with their --scope. A host fetches what it has not, one entry after the other, and removes nothing for it that was used in the last hour. " +
		"What it has not begun an hour later it leaves, and each call takes the place of what the org asked of the same hosts before.\n\n" +
		usage("nimbus cache warm", "nimbus cache warm --repo octo/hello --scope refs/heads/main --prefix linux- --wait", "nimbus cache warm --host build-1 --host build-2 -n 10")
}

type cacheWarmCountView struct {
	State   nimbus.CacheWarmState `json:"state"`
	Entries int64                 `json:"entries"`
	Bytes   int64                 `json:"bytes"`
}

type cacheWarmthView struct {
	HostID string               `json:"host_id"`
	Host   string               `json:"host"`
	Away   bool                 `json:"away,omitempty"`
	Counts []cacheWarmCountView `json:"counts"`
}

func (c *cacheWarmCmd) Run(ctx context.Context, a *app) error {
	return a.asking(func(cl *client.Client) error {
		entries, bytes, hosts, err := cl.WarmCache(ctx, nimbus.CacheWarming{Filter: c.filter(), Hosts: c.Host, Entries: c.Limit, MaxBytes: int64(c.GiB * (1 << 30))})
		if err != nil {
			return err
		}
		if c.Wait {
			a.info("each of %d hosts is asked for %d entries, %s", len(hosts), entries, size(bytes))
			if hosts, err = c.wait(ctx, cl, hosts); err != nil {
				return err
			}
		}
		if err := a.printCacheWarmth(entries, bytes, hosts); err != nil || !c.Wait {
			return err
		}
		return haveAll(hosts)
	})
}

// warmPause is how often is asked what has become of it; hosts tell at each
// heartbeat.
const warmPause = 2 * time.Second

// wait waits until all hosts that are there have told of all, or for as long as
// it may.
func (c *cacheWarmCmd) wait(ctx context.Context, cl *client.Client, asked []nimbus.CacheWarmth) ([]nimbus.CacheWarmth, error) {
	late := time.NewTimer(c.For)
	defer late.Stop()
	for hosts := asked; ; {
		if !slices.ContainsFunc(hosts, func(h nimbus.CacheWarmth) bool { return !h.Away && countOf(h, nimbus.CacheAsked).Entries > 0 }) {
			return hosts, nil
		}
		select {
		case <-time.After(warmPause):
		case <-late.C:
			return hosts, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		all, err := cl.CacheWarmth(ctx)
		if err != nil {
			return nil, err
		}
		hosts = slices.DeleteFunc(all, func(h nimbus.CacheWarmth) bool {
			return !slices.ContainsFunc(asked, func(of nimbus.CacheWarmth) bool { return of.HostID == h.HostID })
		})
	}
}

func countOf(h nimbus.CacheWarmth, state nimbus.CacheWarmState) (c nimbus.CacheWarmCount) {
	for _, of := range h.Counts {
		if of.State == state {
			return of
		}
	}
	return c
}

// haveAll fails unless all hosts have all that they were asked for.
func haveAll(hosts []nimbus.CacheWarmth) error {
	lack := 0
	for _, h := range hosts {
		if slices.ContainsFunc(h.Counts, func(c nimbus.CacheWarmCount) bool { return c.State != nimbus.CacheHere }) {
			lack++
		}
	}
	if lack == 0 {
		return nil
	}
	return nimbus.Errorf(nimbus.CodeUnavailable, "%d of %d hosts have not all of it", lack, len(hosts)).WithHint("the list says why; jobs there fetch the rest themselves")
}

func (a *app) printCacheWarmth(entries, bytes int64, hosts []nimbus.CacheWarmth) error {
	if a.root.JSON {
		views := make([]cacheWarmthView, len(hosts))
		for i, h := range hosts {
			views[i] = cacheWarmthView{h.HostID, h.Host, h.Away, []cacheWarmCountView{}}
			for _, c := range h.Counts {
				views[i].Counts = append(views[i].Counts, cacheWarmCountView(c))
			}
		}
		return a.printJSON(struct {
			Entries int64             `json:"entries"`
			Bytes   int64             `json:"bytes"`
			Hosts   []cacheWarmthView `json:"hosts"`
		}{entries, bytes, views})
	}
	var rows []string
	for _, h := range hosts {
		for _, c := range h.Counts {
			rows = append(rows, strings.Join([]string{terminal.OneLine(h.Host), fmt.Sprint(c.Entries), size(c.Bytes), warmWord(c.State, h.Away)}, "\t"))
		}
	}
	return a.table("HOST\tENTRIES\tSIZE\tSTATE", rows)
}

// warmWord says what became of entries on a host.
func warmWord(state nimbus.CacheWarmState, away bool) string {
	switch state {
	case nimbus.CacheAsked:
		if away {
			return "asked for: the host is away"
		}
		return "asked for"
	case nimbus.CacheHere:
		return "there"
	case nimbus.CacheTooLarge:
		return "not kept: larger than half of the host's --cache-size"
	case nimbus.CacheNoRoom:
		return "no room: what is there was used in the last hour, or the disk is full"
	case nimbus.CacheOff:
		return "the host keeps no copies"
	case nimbus.CacheFailed:
		return "could not be fetched: the host's log says why"
	case nimbus.CacheGone:
		return "removed meanwhile"
	}
	return terminal.OneLine(string(state))
}
