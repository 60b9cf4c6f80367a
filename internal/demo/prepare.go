package demo

import (
	"context"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/debian"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot"
	"github.com/nimbus-ci/nimbus/internal/host"
	"github.com/nimbus-ci/nimbus/internal/programs"
)

// doublePort is where machines reach the double, at their gateway.
const doublePort = 3000

// prepare makes what the jobs run on. That it can't is told, and then seen in
// the jobs: they are unschedulable, or run on the local executor.
func (d *demo) prepare(ctx context.Context) error {
	d.Host.Data, d.Host.Log = d.agentDir(), d.Log
	executors, err := host.Executors(d.Host)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(executors, func(e executor.Executor) bool { return e.Name() == nimbus.ExecutorMicroVM })
	if i < 0 {
		return nil
	}
	if err := d.buildImage(ctx); err != nil {
		if ctx.Err() != nil {
			return err
		}
		d.screen.say("%s", d.Style.Warn("the image can't be built: "+err.Error()))
	}
	d.machines = executors[i].Status(ctx).Available
	return nil
}

// buildImage takes a minute the first time, and nothing later.
func (d *demo) buildImage(ctx context.Context) error {
	program, err := d.Host.Programs.Find(programs.Runner)
	if err != nil {
		return err
	}
	cfg := debian.Runner(image.Store{Dir: d.Host.Images}, program, debian.FetchCached)
	cfg.Progress = func(what string) { d.screen.say("%s", d.Style.Quiet("image: "+what)) }
	_, err = debian.Build(ctx, cfg)
	return err
}

// runnerURL is the double's address as runners reach it; "" for its own.
func (d *demo) runnerURL() string {
	if !d.machines {
		return ""
	}
	return "http://" + net.JoinHostPort(microvm.GatewayName, strconv.Itoa(doublePort))
}

// relayDouble lets machines reach the double.
func (d *demo) relayDouble() {
	d.Host.Relays = append(d.Host.Relays, netslot.Relay{Port: doublePort, Target: strings.TrimPrefix(d.double.URL(), "http://")})
}
