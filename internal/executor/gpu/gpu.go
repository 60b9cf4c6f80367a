// Package gpu gives each job a container with GPUs of its own: a container as
// package docker makes it, and in it the devices that nobody else has as long as
// it lasts.
//
//	gpu.go      which GPUs a job gets, and that no other gets them
//	monitor.go  nimbus-nvml, which reads the GPUs, and what it said
//	cdi.go      what a container needs to have a GPU in it
//	images.go   the images of jobs that name a framework
//	sandbox.go  what such a container used, and that its GPUs are left idle
//
// What there is and which of it is best is decided in package inventory, without
// a GPU at hand.
package gpu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/claims"
	"github.com/nimbus-ci/nimbus/internal/executor/docker"
	"github.com/nimbus-ci/nimbus/internal/executor/gpu/inventory"
)

// Config is what the executor needs.
type Config struct {
	// Containers is how they are made. Its name, and the containers that wait, are
	// set here: none does with a GPU. Its owner and folder are this executor's own.
	Containers docker.Config
	// NVML finds the program nimbus-nvml.
	NVML func() (string, error)
	// Images are those of jobs that name none, by the framework that they need;
	// see Frameworks.
	Images map[string]string
	// CDIDirs is where devices are described, the most important last, for a daemon
	// that doesn't inject them by itself. Default: /etc/cdi and /var/run/cdi.
	CDIDirs []string
}

// Executor implements executor.Executor and executor.Equipped.
type Executor struct {
	*docker.Executor

	cfg     Config
	log     *slog.Logger
	monitor *monitor
	claims  claims.Book // whose each unit is

	mu      sync.Mutex        // held while units are taken, and for what follows
	lacking map[string]string // why units can't be put into containers, as Status saw it
	known   executor.Equipment
	changed func() // who watches, nil for nobody
}

// New returns the executor. Codes: invalid for a framework or a daemon that is
// none.
func New(cfg Config) (*Executor, error) {
	for word := range cfg.Images {
		if !slices.Contains(Frameworks(), word) {
			return nil, nimbus.Errorf(nimbus.CodeInvalid, "%q is no framework that an image can be set for", word).
				WithHint("there are %s, and %s for jobs that name none", strings.Join(Frameworks()[:len(Frameworks())-1], ", "), AnyFramework)
		}
	}
	if len(cfg.CDIDirs) == 0 {
		cfg.CDIDirs = []string{"/etc/cdi", "/var/run/cdi"}
	}
	cfg.Containers.Name, cfg.Containers.Warm = nimbus.ExecutorGPU, docker.WarmConfig{}
	if cfg.Containers.Log == nil {
		cfg.Containers.Log = slog.New(slog.DiscardHandler)
	}
	containers, err := docker.New(cfg.Containers)
	if err != nil {
		return nil, err
	}
	return &Executor{
		Executor: containers, cfg: cfg, log: cfg.Containers.Log, monitor: newMonitor(cfg.NVML, cfg.Containers.Log),
		claims: claims.Book{Dir: filepath.Join(cfg.Containers.Dir, "gpus")}, lacking: map[string]string{},
	}, nil
}

// Status looks at the GPUs, at the daemon, and whether the one can be had in
// containers of the other.
func (e *Executor) Status(ctx context.Context) nimbus.ExecutorStatus {
	s := nimbus.ExecutorStatus{Name: e.Name()}
	inv, err := e.usable(ctx)
	if err != nil {
		s.Detail, s.Hint = err.Error(), nimbus.ErrorHint(err)
		return s
	}
	containers := e.Executor.Status(ctx)
	if s.Available = containers.Available; !s.Available {
		s.Detail, s.Hint = containers.Detail, containers.Hint
		return s
	}
	s.Lacks = nimbus.Capabilities(strings.Join(slices.DeleteFunc(containers.Lacks.Words(), func(word string) bool { return word == "cuda" }), " "))
	var words []string
	for _, g := range inventory.Groups(inv.Units()) {
		words = append(words, fmt.Sprintf("%d × %s", g.Count, g.Profile))
	}
	s.Detail = fmt.Sprintf("%s; driver %s, CUDA %d.%d; %s", strings.Join(words, ", "), inv.Driver, inv.CUDAMajor, inv.CUDAMinor, containers.Detail)
	return s
}

// usable tells what there is that containers can have, or why there is nothing.
func (e *Executor) usable(ctx context.Context) (inventory.Inventory, error) {
	if err := e.monitor.look(ctx); err != nil {
		return inventory.Inventory{}, err
	}
	inv := e.monitor.now(nil).inv
	units := inv.Units()
	if len(units) == 0 {
		return inv, nimbus.Errorf(nimbus.CodeUnavailable, "this machine has no GPU that NVIDIA's driver %s can use", inv.Driver).
			WithHint("nvidia-smi shows those that it can; a GPU in MIG mode needs instances")
	}
	described, err := e.descriptions(ctx)
	if err != nil {
		return inv, err
	}
	lacking := map[string]string{}
	var first error
	for _, u := range units {
		if _, err := described.devices([]inventory.Unit{u}); err != nil {
			lacking[u.ID] = "can't be had in containers: " + err.Error()
			if first == nil {
				first = err
			}
		}
	}
	e.mu.Lock()
	e.lacking = lacking
	e.mu.Unlock()
	if len(lacking) == len(units) {
		return inv, first
	}
	return inv, nil
}

// Equipment implements executor.Equipped.
func (e *Executor) Equipment() executor.Equipment {
	e.mu.Lock()
	defer e.mu.Unlock()
	fit, st, err := e.fit()
	if err != nil {
		return executor.Equipment{}
	}
	eq := executor.Equipment{GPUs: inventory.Groups(fit), Capabilities: st.inv.Capabilities()}
	for _, u := range st.inv.Units() {
		if why, ok := st.faults[u.ID]; ok {
			g, _ := st.inv.GPU(u.GPU)
			eq.Faults = append(eq.Faults, nimbus.GPUFault{GPU: nameOf(g, u), Why: why[:min(len(why), maxWhy)]})
		}
	}
	for word := range e.cfg.Images {
		if word != AnyFramework && len(fit) > 0 {
			eq.Capabilities = append(eq.Capabilities, word)
		}
	}
	slices.Sort(eq.Capabilities)
	return eq
}

// maxWhy bounds what is told of a fault.
const maxWhy = 500

// nameOf is what people know a unit by.
func nameOf(g inventory.GPU, u inventory.Unit) string {
	if u.Slice >= 0 {
		return fmt.Sprintf("slice %d of GPU %d at %s", u.Slice, g.Index, g.Bus)
	}
	return fmt.Sprintf("GPU %d at %s", g.Index, g.Bus)
}

// fit are the units without a fault, those that jobs have among them; e.mu is
// held.
func (e *Executor) fit() ([]inventory.Unit, state, error) {
	taken, err := e.taken()
	if err != nil {
		return nil, state{}, err
	}
	st := e.monitor.now(taken)
	if st.err != nil {
		return nil, st, st.err
	}
	var fit []inventory.Unit
	for _, u := range st.inv.Units() {
		if why, ok := e.lacking[u.ID]; ok && st.faults[u.ID] == "" {
			st.faults[u.ID] = why
		}
		if st.faults[u.ID] == "" {
			fit = append(fit, u)
		}
	}
	return fit, st, nil
}

// Watch implements executor.Equipped.
func (e *Executor) Watch(ctx context.Context, changed func()) error {
	e.mu.Lock()
	e.changed = changed
	e.mu.Unlock()
	e.monitor.watch(ctx, e.compare)
	return nil
}

// compare tells who watches when Equipment answers something else.
func (e *Executor) compare() {
	now := e.Equipment()
	e.mu.Lock()
	changed := e.changed
	if reflect.DeepEqual(now, e.known) {
		changed = nil
	}
	e.known = now
	e.mu.Unlock()
	if changed != nil {
		changed()
	}
}

// taken tells whose units are.
func (e *Executor) taken() (map[string]string, error) {
	ids, err := claims.Names(e.claims.Dir)
	if err != nil {
		return nil, err
	}
	taken := map[string]string{}
	for _, id := range ids {
		if taken[id], err = e.claims.Owner(id); err != nil {
			return nil, err
		}
	}
	return taken, nil
}

// unitsOf are those of a sandbox.
func (e *Executor) unitsOf(sandbox string) (ids []string, err error) {
	taken, err := e.taken()
	for id, owner := range taken {
		if owner == sandbox {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids, err
}

// take gives units to a sandbox, and notes that first. Codes: unavailable where
// there are not as many now.
func (e *Executor) take(spec executor.Spec) ([]inventory.Unit, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fit, st, err := e.fit()
	if err != nil {
		return nil, err
	}
	taken, err := e.taken()
	if err != nil {
		return nil, err
	}
	free := slices.DeleteFunc(fit, func(u inventory.Unit) bool { return taken[u.ID] != "" })
	n, profile := max(spec.Class.GPUs, 1), spec.Reserved.GPUProfile
	if profile == "" {
		r, _, ok := nimbus.Capacity{Sandboxes: 1, CPUs: spec.Class.CPUs, MemoryMiB: spec.Class.MemoryMiB, GPUs: counts(free)}.
			Reserve(nimbus.Class{GPUs: n, GPUProfile: spec.Class.GPUProfile})
		if !ok {
			return nil, tooFew(n, spec.Class.GPUProfile, len(free), len(st.faults))
		}
		profile = r.GPUProfile
	}
	units := st.inv.Choose(free, profile, n)
	if units == nil {
		return nil, tooFew(n, profile, len(free), len(st.faults))
	}
	for _, u := range units {
		if err := e.claims.Note(u.ID, spec.ID); err != nil {
			return nil, errors.Join(err, e.drop(units))
		}
	}
	return units, nil
}

func tooFew(n int, profile string, free, faults int) error {
	return nimbus.Errorf(nimbus.CodeUnavailable, "there are not %s free on this host: %d are, and %d are out of service",
		strings.TrimSpace(fmt.Sprintf("%d GPUs %s", n, profile)), free, faults)
}

func counts(units []inventory.Unit) map[string]int {
	n := map[string]int{}
	for _, u := range units {
		n[u.Profile]++
	}
	return n
}

// drop gives units back.
func (e *Executor) drop(units []inventory.Unit) (err error) {
	for _, u := range units {
		err = errors.Join(err, e.claims.Drop(u.ID))
	}
	return err
}

// release gives all units of a sandbox back. What is left on them counts from now
// on.
func (e *Executor) release(sandbox string) error {
	e.mu.Lock()
	ids, err := e.unitsOf(sandbox)
	for _, id := range ids {
		err = errors.Join(err, e.claims.Drop(id))
	}
	e.mu.Unlock()
	if len(ids) > 0 {
		e.compare()
	}
	return err
}

// Create gives a job its GPUs, and a container that has them.
func (e *Executor) Create(ctx context.Context, spec executor.Spec) (executor.Sandbox, error) {
	if _, err := e.usable(ctx); err != nil {
		return nil, err
	}
	image, err := e.imageOf(spec.Class)
	if err != nil {
		return nil, err
	}
	spec.Class.Image = image
	units, err := e.take(spec)
	if err != nil {
		return nil, err
	}
	s, err := e.createWith(ctx, spec, units)
	if err != nil {
		return nil, errors.Join(err, e.release(spec.ID))
	}
	return s, nil
}

func (e *Executor) createWith(ctx context.Context, spec executor.Spec, units []inventory.Unit) (executor.Sandbox, error) {
	described, err := e.descriptions(ctx)
	if err != nil {
		return nil, err
	}
	devices, err := described.devices(units)
	if err != nil {
		return nil, err
	}
	if spec.Tell != nil {
		var words []string
		for _, u := range units {
			words = append(words, fmt.Sprintf("%s (%s)", u.ID, u.Model))
		}
		spec.Tell("has for itself: " + strings.Join(words, ", "))
	}
	inner, err := e.CreateWith(ctx, spec, devices)
	if err != nil {
		return nil, err
	}
	return e.wrap(inner, spec.Dir)
}

// Adopt finds a sandbox again, and its GPUs with it.
func (e *Executor) Adopt(ctx context.Context, id, dir string) (executor.Sandbox, error) {
	inner, err := e.Executor.Adopt(ctx, id, dir)
	if nimbus.ErrorCode(err) == nimbus.CodeNotFound { // it never was, or its folder is gone
		return nil, errors.Join(err, e.release(id))
	}
	if err != nil {
		return nil, err
	}
	return e.wrap(inner, dir)
}

// Sweep removes what belongs to nobody, and then gives its GPUs back.
func (e *Executor) Sweep(ctx context.Context, keep func() []string) ([]string, error) {
	taken, err := e.taken() // before it is asked who is there: who comes later is not among them
	if err != nil {
		return nil, err
	}
	var kept []string
	removed, err := e.Executor.Sweep(ctx, func() []string {
		kept = keep()
		return kept
	})
	if err != nil {
		return removed, err // somebody may still be at them
	}
	for _, owner := range taken {
		if !slices.Contains(kept, owner) {
			err = errors.Join(err, e.release(owner))
		}
	}
	return removed, err
}
