package agent

import (
	"context"
	"slices"
	"strings"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
)

// equip adds to an inventory what its executors have for jobs to have for
// themselves, and counts that as room. They know better than the machine what of
// it is fit for work.
func (a *Agent) equip(inv *nimbus.Inventory) {
	equipped := false
	var all executor.Equipment
	for _, e := range a.cfg.Executors {
		if eq, ok := e.(executor.Equipped); ok {
			equipped = true
			has := eq.Equipment()
			a.lack(inv, e.Name(), has.Capabilities)
			all.GPUs, all.Faults = append(all.GPUs, has.GPUs...), append(all.Faults, has.Faults...)
			all.Capabilities = append(all.Capabilities, has.Capabilities...)
		}
	}
	if !equipped {
		return
	}
	inv.GPUs, inv.GPUFaults = all.GPUs, all.Faults
	inv.Capabilities = slices.Concat(inv.Capabilities, all.Capabilities)
	slices.Sort(inv.Capabilities)
	inv.Capabilities = slices.Compact(inv.Capabilities)
	a.capacity.setGPUs(nimbus.Inventory{GPUs: all.GPUs}.Total().GPUs)
}

// lack notes that jobs of all other executors don't have what one of them gives to
// its own, but for what the operator says that they have.
func (a *Agent) lack(inv *nimbus.Inventory, but string, words []string) {
	words = slices.DeleteFunc(slices.Clone(words), func(word string) bool { return slices.Contains(a.cfg.Capabilities, word) })
	for i := range inv.Executors {
		if e := &inv.Executors[i]; e.Name != but && e.Available {
			all := append(e.Lacks.Words(), words...)
			slices.Sort(all)
			e.Lacks = nimbus.Capabilities(strings.Join(slices.Compact(all), " "))
		}
	}
}

// watch has an executor keep an eye on its hardware for as long as ctx lasts. What
// changes counts at once, and is told soon.
func (a *Agent) watch(ctx context.Context, name string, e executor.Equipped) {
	changed := func() {
		a.equip(&nimbus.Inventory{})
		select {
		case a.equipped <- struct{}{}:
		default: // it will be told with what has changed before
		}
	}
	if err := e.Watch(ctx, changed); err != nil && ctx.Err() == nil {
		a.log.WarnContext(ctx, "hardware is not watched", "executor", name, "error", err)
	}
}
