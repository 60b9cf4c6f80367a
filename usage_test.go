package nimbus

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestSeriesHalves adds samples for hours: the series stays bounded, its last
// point is the last sample, its peak the highest ever, and points are a step
// apart.
func TestSeriesHalves(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	s := UsageSeries{Start: time.Unix(1, 0)}
	var last UsageSample
	var peak int64
	for i := range 20_000 {
		// No clock ticks exactly, and now and then nobody measures.
		if random.IntN(50) == 0 {
			continue
		}
		last = UsageSample{At: time.Duration(i)*time.Second + time.Duration(random.IntN(200)-100)*time.Millisecond, CPU: last.CPU + time.Duration(random.IntN(1000))*time.Millisecond,
			MemoryBytes: int64(random.IntN(1 << 30)), ReadBytes: last.ReadBytes + 1, WrittenBytes: last.WrittenBytes + 2, SentBytes: last.SentBytes + 3, ReceivedBytes: last.ReceivedBytes + 4}
		if last.At <= 0 {
			continue
		}
		peak = max(peak, last.MemoryBytes)
		s.Add(last)
		if len(s.Points) > MaxUsagePoints {
			t.Fatalf("%d points after %d samples", len(s.Points), i)
		}
		if err := s.Check(); err != nil {
			t.Fatal(err)
		}
	}
	if want := 64 * time.Second; s.Step != want { // 20,000 s in at most 600 steps
		t.Errorf("a step of %s, want %s", s.Step, want)
	}
	if len(s.Points) < MaxUsagePoints/2 {
		t.Errorf("%d points are left", len(s.Points))
	}
	if got := s.Totals(); got.PeakMemoryBytes != peak || got.CPUTime != last.CPU || got.ReceivedBytes != last.ReceivedBytes {
		t.Errorf("totals %+v, want a peak of %d and the last %+v", got, peak, last)
	}
	for i := 1; i < len(s.Points); i++ {
		if d := s.Points[i].At - s.Points[i-1].At; d < s.Step/2 {
			t.Fatalf("points %d and %d are %s apart", i-1, i, d)
		}
	}
}

// TestSeriesKeepsEachSecond: no second of a short job is lost to a clock that
// ticks a little early or late.
func TestSeriesKeepsEachSecond(t *testing.T) {
	t.Parallel()
	var s UsageSeries
	for i := 1; i <= MaxUsagePoints; i++ {
		early := time.Duration(i%2) * 300 * time.Millisecond
		s.Add(UsageSample{At: time.Duration(i)*time.Second - early})
	}
	if len(s.Points) != MaxUsagePoints || s.Step != UsageStep {
		t.Errorf("%d points a %s", len(s.Points), s.Step)
	}
}

func TestSeriesNeverCountsDown(t *testing.T) {
	t.Parallel()
	s := UsageSeries{Start: time.Unix(1, 0)}
	s.Add(UsageSample{At: time.Second, CPU: time.Second, ReadBytes: 10, SentBytes: 5})
	s.Add(UsageSample{At: 2 * time.Second, CPU: 500 * time.Millisecond, ReadBytes: 3, WrittenBytes: 7})
	s.Add(UsageSample{At: time.Second, CPU: time.Hour}) // comes late
	want := UsageTotals{CPUTime: time.Second, ReadBytes: 10, WrittenBytes: 7, SentBytes: 5, PeakCPUs: 0.5}
	if diff := cmp.Diff(want, s.Totals()); diff != "" {
		t.Error(diff)
	}
	if err := s.Check(); err != nil {
		t.Error(err)
	}
}

// TestSeriesSaysHowManyCPUsAreNeeded: what is in use for some ten seconds counts,
// a shorter burst only as its part of them.
func TestSeriesSaysHowManyCPUsAreNeeded(t *testing.T) {
	t.Parallel()
	of := func(rates ...float64) float64 {
		s := UsageSeries{Start: time.Unix(1, 0)}
		var cpu time.Duration
		for i, rate := range rates {
			cpu += time.Duration(rate * float64(time.Second))
			s.Add(UsageSample{At: time.Duration(i+1) * time.Second, CPU: cpu})
		}
		return s.Totals().PeakCPUs
	}
	hold := func(rate float64, seconds int) []float64 { return slices.Repeat([]float64{rate}, seconds) }
	for name, c := range map[string]struct {
		rates []float64
		want  float64
	}{
		"a short job":           {hold(2, 3), 2},
		"steady":                {hold(1.5, 60), 1.5},
		"a burst of a second":   {slices.Concat(hold(0, 30), hold(4, 1), hold(0, 30)), 0.4},
		"a burst of ten":        {slices.Concat(hold(0.5, 30), hold(4, 10), hold(0.5, 30)), 4},
		"a burst at the start":  {slices.Concat(hold(3, 10), hold(0, 30)), 3},
		"a burst at the end":    {slices.Concat(hold(0, 30), hold(3, 10)), 3},
		"nothing was ever used": {hold(0, 20), 0},
	} {
		if got := of(c.rates...); math.Abs(got-c.want) > 0.01 {
			t.Errorf("%s: %v CPUs, want %v", name, got, c.want)
		}
	}
	long := UsageSeries{Start: time.Unix(1, 0), Step: 64 * time.Second}
	long.Add(UsageSample{At: 64 * time.Second, CPU: 64 * time.Second})
	long.Add(UsageSample{At: 128 * time.Second, CPU: 192 * time.Second})
	if got := long.Totals().PeakCPUs; got != 2 {
		t.Errorf("of points far apart: %v CPUs", got)
	}
}

func TestSeriesSaysWhatIsUsedNow(t *testing.T) {
	t.Parallel()
	s := UsageSeries{Points: []UsageSample{{At: 10 * time.Second, CPU: 10 * time.Second}, {At: 12 * time.Second, CPU: 13 * time.Second, MemoryBytes: 5}}}
	if cpus, memory := s.Now(); cpus != 1.5 || memory != 5 {
		t.Errorf("%v CPUs and %d bytes", cpus, memory)
	}
}

func TestSeriesIsChecked(t *testing.T) {
	t.Parallel()
	point := func(at time.Duration) UsageSample { return UsageSample{At: at} }
	for name, s := range map[string]UsageSeries{
		"too many":         {Points: make([]UsageSample, MaxUsagePoints+1)},
		"backwards":        {Points: []UsageSample{point(2), point(1)}},
		"twice":            {Points: []UsageSample{point(2), point(2)}},
		"before it began":  {Points: []UsageSample{point(-1)}},
		"counts down":      {Points: []UsageSample{{At: 1, CPU: 2}, {At: 2, CPU: 1}}},
		"negative":         {Points: []UsageSample{{At: 1, ReadBytes: -1}}},
		"negative memory":  {Points: []UsageSample{{At: 1, MemoryBytes: -1}}},
		"GPUs count down":  {Points: []UsageSample{{At: 1, GPU: GPUSample{Millijoules: 2}}, {At: 2, GPU: GPUSample{Millijoules: 1}}}},
		"GPU memory":       {Points: []UsageSample{{At: 1, GPU: GPUSample{MemoryBytes: -1}}}},
		"a step backwards": {Step: -1},
		"before the epoch": {Start: time.Unix(-1, 0)},
	} {
		if s.Start.IsZero() {
			s.Start = time.Unix(1, 0)
		}
		if err := s.Check(); err == nil {
			t.Errorf("%s: believed", name)
		}
	}
}

func TestSeriesIsWrittenInFewBytes(t *testing.T) {
	t.Parallel()
	s := UsageSeries{Start: time.UnixMicro(1_790_000_000_000_000).UTC(), Step: 2 * time.Second}
	for i := range int64(MaxUsagePoints) {
		s.Points = append(s.Points, UsageSample{At: time.Duration(2*i) * time.Second, CPU: time.Duration(i*1998) * time.Millisecond, MemoryBytes: 1<<30 + i%7<<20,
			ReadBytes: i << 20, WrittenBytes: i << 18, SentBytes: i * 1000, ReceivedBytes: i * 15_000})
	}
	b, err := s.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 20*MaxUsagePoints {
		t.Errorf("%d bytes for %d points", len(b), len(s.Points))
	}
	var back UsageSeries
	if err := back.UnmarshalBinary(b); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s, back); diff != "" {
		t.Error(diff)
	}
	for n := range b {
		if err := new(UsageSeries).UnmarshalBinary(b[:n]); err == nil {
			t.Fatalf("the first %d of %d bytes are taken for all", n, len(b))
		}
	}
}

// TestSeriesOfGPUs: what GPUs did is kept, and what had none is written as before
// there were any.
func TestSeriesOfGPUs(t *testing.T) {
	t.Parallel()
	s := UsageSeries{Start: time.UnixMicro(1_790_000_000_000_000).UTC()}
	s.Add(UsageSample{At: time.Second, CPU: time.Second})
	plain, err := s.MarshalBinary()
	if err != nil || plain[0] != usageFormat {
		t.Errorf("without GPUs: %v, %v", plain, err)
	}
	s.Add(UsageSample{At: 2 * time.Second, CPU: time.Second, GPU: GPUSample{Busy: 1500 * time.Millisecond, MemoryBytes: 8 << 30, Millijoules: 600_000}})
	s.Add(UsageSample{At: 3 * time.Second, CPU: time.Second, GPU: GPUSample{Busy: time.Second, MemoryBytes: 4 << 30, Millijoules: 900_000}}) // its counters began anew
	b, err := s.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	var back UsageSeries
	if err := back.UnmarshalBinary(b); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s, back); diff != "" {
		t.Error(diff)
	}
	want := UsageTotals{CPUTime: time.Second, PeakCPUs: s.Totals().PeakCPUs, GPU: GPUTotals{Busy: 1500 * time.Millisecond, PeakMemoryBytes: 8 << 30, Millijoules: 900_000}}
	if diff := cmp.Diff(want, s.Totals()); diff != "" {
		t.Error(diff)
	}
	for n := range b {
		if err := new(UsageSeries).UnmarshalBinary(b[:n]); err == nil {
			t.Fatalf("the first %d of %d bytes are taken for all", n, len(b))
		}
	}
}

func FuzzUsageSeries(f *testing.F) {
	b, _ := UsageSeries{Start: time.Unix(1, 0), Step: time.Second, Points: []UsageSample{{At: time.Second, CPU: 1}}}.MarshalBinary()
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var s UsageSeries
		if s.UnmarshalBinary(b) != nil {
			return
		}
		again, err := s.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		var back UsageSeries
		if err := back.UnmarshalBinary(again); err != nil {
			t.Fatal(err)
		}
	})
}
