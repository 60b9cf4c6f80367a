package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
)

type cacheHostsCmd struct{}

func (*cacheHostsCmd) Help() string {
	return "Hosts keep copies of what their jobs save and restore, of all orgs. HITS is how many of the contents that jobs asked for came from the host's own disk, SENT how many bytes did, and ORIGIN how many came from the control plane instead. EVICTED are contents that made room, REFUSED those that were not kept for want of it. The counts are from when the host's agent started, and some seconds old. For who may see the platform's hosts.\n\n" +
		usage("nimbus cache hosts", "nimbus cache hosts --json | jq '.hosts[] | select(.copies.hit_ratio < 0.5) | .name' -r")
}

// copiesView is what a host's copies did, and what they take.
type copiesView struct {
	Entries      int64   `json:"entries"`
	Bytes        int64   `json:"bytes"`
	LimitBytes   int64   `json:"limit_bytes"`
	Hits         int64   `json:"hits"`
	Misses       int64   `json:"misses"`
	HitRatio     float64 `json:"hit_ratio"`
	SentBytes    int64   `json:"sent_bytes"`
	OriginBytes  int64   `json:"origin_bytes"`
	Saved        int64   `json:"saved"`
	Evicted      int64   `json:"evicted"`
	EvictedBytes int64   `json:"evicted_bytes"`
	Refused      int64   `json:"refused"`
	Corrupt      int64   `json:"corrupt"`
}

// viewCopies is nil for a host that keeps none.
func viewCopies(c nimbus.CacheCopies) *copiesView {
	if c.Limit == 0 {
		return nil
	}
	return &copiesView{c.Entries, c.Bytes, c.Limit, c.Hits, c.Misses, c.HitRatio(), c.SentBytes, c.OriginBytes, c.Saved, c.Evicted, c.EvictedBytes, c.Refused, c.Corrupt}
}

// hits is how many of those that were asked for were there, "-" before any was.
func hits(hits, misses int64, ratio float64) string {
	if hits+misses == 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f %%", 100*ratio)
}

type hostCopiesView struct {
	ID     string           `json:"id"`
	Name   string           `json:"name"`
	State  nimbus.HostState `json:"state"`
	Copies *copiesView      `json:"copies,omitempty"` // not set where the host keeps none
}

func (*cacheHostsCmd) Run(ctx context.Context, a *app) error {
	return a.asking(func(cl *client.Client) error {
		hosts, err := cl.Hosts(ctx)
		if err != nil {
			return err
		}
		views := make([]hostCopiesView, len(hosts))
		for i, h := range hosts {
			views[i] = hostCopiesView{h.ID, h.Name, h.State, viewCopies(h.Free.Copies)}
		}
		if a.root.JSON {
			return a.printJSON(struct {
				Hosts []hostCopiesView `json:"hosts"`
			}{views})
		}
		return a.printCopies(views)
	})
}

func (a *app) printCopies(views []hostCopiesView) error {
	var rows, none []string
	for _, v := range views {
		c := v.Copies
		if c == nil {
			none = append(none, terminal.OneLine(v.Name))
			continue
		}
		rows = append(rows, fmt.Sprintf("%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d", terminal.OneLine(v.Name), v.State, c.Entries, size(c.Bytes), size(c.LimitBytes),
			hits(c.Hits, c.Misses, c.HitRatio), size(c.SentBytes), size(c.OriginBytes), c.Saved, c.Evicted, c.Refused))
	}
	if len(rows) > 0 {
		if err := a.table("HOST\tSTATE\tENTRIES\tSIZE\tOF\tHITS\tSENT\tORIGIN\tSAVED\tEVICTED\tREFUSED", rows); err != nil {
			return err
		}
	}
	if len(none) > 0 {
		a.info("no copies are kept, or none was told of yet, at %s: --cache-size of the host's agent says how much", strings.Join(none, ", "))
	}
	if len(views) == 0 {
		a.info("no hosts: `nimbus hosts token` lets one join")
	}
	return nil
}
