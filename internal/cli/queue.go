package cli

import (
	"context"
	"fmt"
	"time"
)

type queueCmd struct {
	Show queueShowCmd `cmd:"" default:"withargs" help:"Show what waits and runs, by class."`
}

type queueShowCmd struct{}

func (*queueShowCmd) Help() string {
	return "HOSTS are those that could run such jobs: that are ready, of all. FREE is for how many more jobs they have room, which all classes share.\n\n" +
		usage("nimbus queue", "nimbus queue --json | jq '.classes[] | select(.waiting > 100)'")
}

func (*queueShowCmd) Run(ctx context.Context, a *app) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	classes, err := cl.Queue(ctx)
	if err != nil {
		return err
	}
	v := struct {
		Classes []queueClassView `json:"classes"`
	}{Classes: []queueClassView{}}
	var rows []string
	for _, q := range classes {
		v.Classes = append(v.Classes, queueClassView{Class: viewClass(q.Class), Waiting: q.Waiting, Queued: q.Queued, Unschedulable: q.Unschedulable, More: q.More,
			OldestAt: timeView(q.OldestAt), Running: q.Running, HostsReady: q.HostsReady, HostsAll: q.HostsAll, FreeSlots: q.FreeSlots})
		waiting := fmt.Sprint(q.Waiting)
		if q.More {
			waiting += "+"
		}
		oldest := "-"
		if !q.OldestAt.IsZero() {
			oldest = roughly(time.Since(q.OldestAt))
		}
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%d\t%d/%d\t%d\t%d", q.Class, waiting, oldest, q.Running, q.HostsReady, q.HostsAll, q.FreeSlots, q.Unschedulable))
	}
	if a.root.JSON {
		return a.printJSON(v)
	}
	if len(rows) == 0 {
		a.info("nothing waits and nothing runs")
		return nil
	}
	return a.table("CLASS\tWAITING\tOLDEST\tRUNNING\tHOSTS\tFREE\tUNSCHEDULABLE", rows)
}

type queueClassView struct {
	Class         classView  `json:"class"`
	Waiting       int        `json:"waiting"`
	Queued        int        `json:"queued"`
	Unschedulable int        `json:"unschedulable"`
	More          bool       `json:"more,omitempty"` // than were counted
	OldestAt      *time.Time `json:"oldest_at,omitempty"`
	Running       int        `json:"running"`
	HostsReady    int        `json:"hosts_ready"`
	HostsAll      int        `json:"hosts_all"`
	FreeSlots     int        `json:"free_slots"`
}

// timeView leaves a time out that there is none of.
func timeView(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
