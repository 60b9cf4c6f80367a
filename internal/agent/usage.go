package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/wholefile"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

const (
	// usageLook is how often the control plane is told what attempts used, and
	// usageMost the longest that one waits for it: a long one has new points
	// seldom, and its series is large.
	usageLook = 5 * time.Second
	usageMost = 10 * time.Second
	// usagesAtOnce bounds one message.
	usagesAtOnce = 16
)

// usage is what an attempt has used so far. What its sandbox used before, while
// it was made or waited, is not the attempt's.
type usage struct {
	mu     sync.Mutex
	base   *nimbus.UsageSample // nil until there is a sample
	series nimbus.UsageSeries
	told   time.Duration // of the series
	over   bool          // the attempt has ended: what its sandbox does now is nobody's
}

// add takes what the sandbox has used by now.
func (u *usage) add(now time.Time, s nimbus.UsageSample) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.over:
	case u.base == nil:
		u.series.Start, u.base = now, &s
	default:
		s.At = now.Sub(u.series.Start).Truncate(time.Millisecond) // as it is told and kept
		u.series.Add(s.Since(*u.base))
	}
}

// end takes no more samples, and returns the whole series.
func (u *usage) end() nimbus.UsageSeries {
	u.mu.Lock()
	u.over = true
	u.mu.Unlock()
	return u.all()
}

// all returns a copy of the series so far.
func (u *usage) all() nimbus.UsageSeries {
	u.mu.Lock()
	defer u.mu.Unlock()
	s := u.series
	s.Points = append([]nimbus.UsageSample(nil), s.Points...)
	return s
}

// due returns the series if the control plane is to be told of it.
func (u *usage) due() (nimbus.UsageSeries, bool) {
	u.mu.Lock()
	n := len(u.series.Points)
	wait := usageLook
	if u.series.Step > nimbus.UsageStep {
		wait = usageMost
	}
	due := n > 0 && (u.told == 0 || u.series.Points[n-1].At-u.told > wait-time.Second)
	u.mu.Unlock()
	if !due {
		return nimbus.UsageSeries{}, false
	}
	return u.all(), true
}

// tell notes up to which point the control plane knows a series.
func (u *usage) tell(s nimbus.UsageSeries) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.told = s.Points[len(s.Points)-1].At
}

// runUsageLoop measures each sandbox once a second.
func (a *Agent) runUsageLoop(ctx context.Context) error {
	ticker := time.NewTicker(nimbus.UsageStep)
	defer ticker.Stop()
	for {
		for _, t := range a.current() {
			t.measure(ctx)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// measure adds a sample, where the sandbox can be measured.
func (t *attempt) measure(ctx context.Context) {
	t.mu.Lock()
	sandbox := t.sandbox
	t.mu.Unlock()
	var s nimbus.UsageSample
	var err error
	metered, ok := sandbox.(executor.Metered)
	if ok {
		s, err = metered.Usage(ctx)
	}
	if accelerated, has := sandbox.(executor.Accelerated); has && err == nil {
		s.GPU, err = accelerated.GPUUsage(ctx)
		ok = true
	}
	switch {
	case err != nil:
		t.log.DebugContext(ctx, "measure sandbox", "error", err) // it may be ending
	case ok:
		t.usage.add(time.Now(), s)
	}
}

// runTellUsageLoop tells the control plane what attempts used. A call of its own:
// no renewal of a lease waits for it.
func (a *Agent) runTellUsageLoop(ctx context.Context) error {
	ticker := time.NewTicker(usageLook)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
		if err := a.tellUsage(ctx); err != nil && ctx.Err() == nil {
			a.log.DebugContext(ctx, "tell what attempts use", "error", err) // the next time has it, too
		}
	}
}

func (a *Agent) tellUsage(ctx context.Context) error {
	var usages []*nimbusv1.AttemptUsage
	var errs []error
	var told []func()
	flush := func() {
		if len(usages) == 0 {
			return
		}
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		_, err := a.control.ReportUsage(ctx, connect.NewRequest(&nimbusv1.ReportUsageRequest{Usages: usages}))
		if err == nil {
			for _, f := range told {
				f()
			}
		}
		errs = append(errs, err)
		usages, told = nil, nil
	}
	for _, t := range a.current() {
		series, due := t.usage.due()
		if !due || !t.leased() {
			continue
		}
		if err := t.keepUsage(); err != nil {
			errs = append(errs, err)
		}
		usages = append(usages, &nimbusv1.AttemptUsage{Lease: wire.Lease(t.lease()), Series: wire.UsageSeries(series)})
		told = append(told, func() { t.usage.tell(series) })
		if len(usages) == usagesAtOnce {
			flush()
		}
	}
	flush()
	return errors.Join(errs...)
}

// keptUsage is what the next agent must know to go on.
type keptUsage struct {
	Base   nimbus.UsageSample `json:"base"`
	Series []byte             `json:"series"`
}

const usageFile = "usage.json"

// keepUsage writes the series beside the attempt's state. It may be lost with
// the machine: so is the sandbox.
func (t *attempt) keepUsage() error {
	series := t.usage.all()
	t.usage.mu.Lock()
	base := t.usage.base
	t.usage.mu.Unlock()
	if base == nil {
		return nil
	}
	raw, err := series.MarshalBinary()
	if err != nil {
		return err
	}
	text, err := json.Marshal(keptUsage{Base: *base, Series: raw}) //nolint:musttag // the vocabulary has no tags; nobody else reads the file
	if err != nil {
		return fmt.Errorf("encode what the attempt used: %w", err)
	}
	path := filepath.Join(t.dir, usageFile)
	if err := wholefile.Write(path, text, 0o600); err != nil {
		return fmt.Errorf("keep what the attempt used: %w", err)
	}
	return nil
}

// loadUsage reads what an earlier process kept. Without it, the series begins
// anew.
func (t *attempt) loadUsage() error {
	text, err := os.ReadFile(filepath.Join(t.dir, usageFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read what the attempt used: %w", err)
	}
	var kept keptUsage
	if err := json.Unmarshal(text, &kept); err != nil { //nolint:musttag // as above
		return fmt.Errorf("read what the attempt used: %w", err)
	}
	var series nimbus.UsageSeries
	if err := series.UnmarshalBinary(kept.Series); err != nil {
		return err
	}
	t.usage.base, t.usage.series = &kept.Base, series
	return nil
}
