package nimbus

import (
	"encoding/binary"
	"math"
	"slices"
	"time"
)

// Bounds of what is kept of what an attempt used.
const (
	MaxUsagePoints = 600
	UsageStep      = time.Second // between points at first
)

// UsageSample is what a sandbox used of its host, up to a moment. All but
// memory only grows.
type UsageSample struct {
	At                       time.Duration // since the series began
	CPU                      time.Duration
	MemoryBytes              int64 // of the moment, and of a point the most since the one before; without what is only cached
	ReadBytes, WrittenBytes  int64 // from disks and to them
	SentBytes, ReceivedBytes int64 // by a network of its own

	GPU GPUSample `json:",omitzero"`
}

// GPUSample is what a sandbox used of its GPUs, of all together. All but memory
// only grows.
type GPUSample struct {
	Busy        time.Duration // that they worked: two that do for a second have for two
	MemoryBytes int64         // of the moment, and of a point the most since the one before
	Millijoules int64         // of energy that they drew
}

func (g GPUSample) since(base GPUSample) GPUSample {
	return GPUSample{Busy: max(g.Busy-base.Busy, 0), MemoryBytes: g.MemoryBytes, Millijoules: max(g.Millijoules-base.Millijoules, 0)}
}

func (g GPUSample) after(before GPUSample) GPUSample {
	g.Busy, g.Millijoules = max(g.Busy, before.Busy), max(g.Millijoules, before.Millijoules)
	return g
}

// Since is what was used since base, which the same sandbox had used before.
func (s UsageSample) Since(base UsageSample) UsageSample {
	return UsageSample{
		At: s.At - base.At, CPU: max(s.CPU-base.CPU, 0), MemoryBytes: s.MemoryBytes,
		ReadBytes: max(s.ReadBytes-base.ReadBytes, 0), WrittenBytes: max(s.WrittenBytes-base.WrittenBytes, 0),
		SentBytes: max(s.SentBytes-base.SentBytes, 0), ReceivedBytes: max(s.ReceivedBytes-base.ReceivedBytes, 0),
		GPU: s.GPU.since(base.GPU),
	}
}

// after is the sample with no counter below that of the one before: the last
// process of a sandbox may take what it did with it.
func (s UsageSample) after(before UsageSample) UsageSample {
	s.CPU = max(s.CPU, before.CPU)
	s.ReadBytes, s.WrittenBytes = max(s.ReadBytes, before.ReadBytes), max(s.WrittenBytes, before.WrittenBytes)
	s.SentBytes, s.ReceivedBytes = max(s.SentBytes, before.SentBytes), max(s.ReceivedBytes, before.ReceivedBytes)
	s.GPU = s.GPU.after(before.GPU)
	return s
}

// UsageTotals is what a sandbox used in all.
type UsageTotals struct {
	CPUTime                  time.Duration
	PeakMemoryBytes          int64
	ReadBytes, WrittenBytes  int64
	SentBytes, ReceivedBytes int64
	PeakCPUs                 float64 // the most that were in use in the mean of about peakSpan

	GPU GPUTotals `json:",omitzero"`
}

// GPUTotals is what a sandbox used of its GPUs in all, of all together.
type GPUTotals struct {
	Busy            time.Duration
	PeakMemoryBytes int64
	Millijoules     int64
}

// peakSpan is how long a sandbox has to use CPUs for them to count as needed: what
// is over sooner may as well take a little longer.
const peakSpan = 10 * time.Second

// UsageSeries is what a sandbox used over its time: at most MaxUsagePoints,
// whose distance doubles each time that there would be more. Where nobody
// measured there is no point. The zero value is ready for use.
type UsageSeries struct {
	Start  time.Time
	Step   time.Duration
	Points []UsageSample
}

// Add takes a sample that is later than those before; one that is not is left
// out.
func (s *UsageSeries) Add(p UsageSample) {
	if s.Step == 0 {
		s.Step = UsageStep
	}
	if n := len(s.Points); n > 0 {
		if p.At <= s.Points[n-1].At {
			return
		}
		p = p.after(s.Points[n-1])
	}
	s.put(p)
	for len(s.Points) > MaxUsagePoints {
		s.Step *= 2
		points := s.Points
		s.Points = points[:0]
		for _, p := range points {
			s.put(p)
		}
	}
}

// put adds a point, or makes it the last of the place that it shares.
func (s *UsageSeries) put(p UsageSample) {
	if n := len(s.Points); n > 0 && s.place(s.Points[n-1]) == s.place(p) {
		p.MemoryBytes = max(p.MemoryBytes, s.Points[n-1].MemoryBytes)
		p.GPU.MemoryBytes = max(p.GPU.MemoryBytes, s.Points[n-1].GPU.MemoryBytes)
		s.Points[n-1] = p
		return
	}
	s.Points = append(s.Points, p)
}

// place is the step that a sample is nearest to: no clock ticks exactly.
func (s *UsageSeries) place(p UsageSample) time.Duration { return (p.At + s.Step/2) / s.Step }

// Totals is what was used by the last point.
func (s UsageSeries) Totals() UsageTotals {
	if len(s.Points) == 0 {
		return UsageTotals{}
	}
	last := s.Points[len(s.Points)-1]
	t := UsageTotals{CPUTime: last.CPU, ReadBytes: last.ReadBytes, WrittenBytes: last.WrittenBytes,
		SentBytes: last.SentBytes, ReceivedBytes: last.ReceivedBytes,
		GPU: GPUTotals{Busy: last.GPU.Busy, Millijoules: last.GPU.Millijoules}}
	for _, p := range s.Points {
		t.PeakMemoryBytes = max(t.PeakMemoryBytes, p.MemoryBytes)
		t.GPU.PeakMemoryBytes = max(t.GPU.PeakMemoryBytes, p.GPU.MemoryBytes)
	}
	t.PeakCPUs = s.peakCPUs()
	return t
}

// peakCPUs is the highest rate between two points that are peakSpan apart, or of
// the whole where that is shorter.
func (s UsageSeries) peakCPUs() (peak float64) {
	var from UsageSample // as if there were a point where it begins
	last := s.Points[len(s.Points)-1]
	next := 0
	for _, p := range s.Points {
		for next < len(s.Points) && p.At-s.Points[next].At >= peakSpan {
			from = s.Points[next]
			next++
		}
		if d := p.At - from.At; d >= peakSpan || p == last && d > 0 && from == (UsageSample{}) {
			peak = max(peak, float64(p.CPU-from.CPU)/float64(d))
		}
	}
	return peak
}

// Now is how many CPUs and how much memory were in use between the last two
// points; zero where there are none.
func (s UsageSeries) Now() (cpus float64, memoryBytes int64) {
	n := len(s.Points)
	if n == 0 {
		return 0, 0
	}
	var before UsageSample
	if n > 1 {
		before = s.Points[n-2]
	}
	last := s.Points[n-1]
	if d := last.At - before.At; d > 0 {
		cpus = float64(last.CPU-before.CPU) / float64(d)
	}
	return cpus, last.MemoryBytes
}

// maxUsageTime bounds the times of a series: longer than any attempt.
const maxUsageTime = 10 * 365 * 24 * time.Hour

// Check tells whether a series can be believed at all. Codes: invalid, too_large.
func (s UsageSeries) Check() error {
	if len(s.Points) > MaxUsagePoints {
		return Errorf(CodeTooLarge, "a series has at most %d points", MaxUsagePoints)
	}
	if s.Step < 0 || s.Step > maxUsageTime || s.Start.Unix() < 0 {
		return Errorf(CodeInvalid, "a series can't begin at %s and go on by %s", s.Start, s.Step)
	}
	var before UsageSample
	for i, p := range s.Points {
		switch {
		case p.At < 0 || p.At > maxUsageTime || i > 0 && p.At <= before.At:
			return Errorf(CodeInvalid, "point %d of a series is not after the one before", i)
		case p.MemoryBytes < 0 || p.GPU.MemoryBytes < 0 || p != p.after(before):
			return Errorf(CodeInvalid, "point %d of a series counts down", i)
		}
		before = p
	}
	return nil
}

// Check tells whether totals can be believed at all. Codes: invalid.
func (t UsageTotals) Check() error {
	if t.PeakCPUs < 0 || math.IsNaN(t.PeakCPUs) || math.IsInf(t.PeakCPUs, 0) {
		return Errorf(CodeInvalid, "%v CPUs can't be in use", t.PeakCPUs)
	}
	if t.CPUTime < 0 || t.PeakMemoryBytes < 0 || t.ReadBytes < 0 || t.WrittenBytes < 0 || t.SentBytes < 0 || t.ReceivedBytes < 0 ||
		t.GPU.Busy < 0 || t.GPU.PeakMemoryBytes < 0 || t.GPU.Millijoules < 0 {
		return Errorf(CodeInvalid, "nothing can be used less than not at all")
	}
	return nil
}

// How a series is written: a byte that only grows. What has used no GPU is
// written as before there were any.
const (
	usageFormat    = 1
	usageFormatGPU = 2
)

// MarshalBinary writes a series in few bytes: milliseconds, KiB of memory, and of
// each point what is new since the one before.
func (s UsageSeries) MarshalBinary() ([]byte, error) {
	format, n := s.format()
	b := []byte{format}
	b = binary.AppendVarint(b, s.Start.UnixMicro())
	b = binary.AppendUvarint(b, uint64(s.Step.Milliseconds()))
	b = binary.AppendUvarint(b, uint64(len(s.Points)))
	var before [usageFields]int64
	for _, p := range s.Points {
		now := p.fields()
		for i, v := range now[:n] {
			b = binary.AppendVarint(b, v-before[i])
		}
		before = now
	}
	return b, nil
}

// usageFields is how many numbers a point has at most, usageFieldsCPU how many
// where there were no GPUs.
const (
	usageFieldsCPU = 7
	usageFields    = 10
)

// format is how a series is written, and with how many numbers of each point.
func (s UsageSeries) format() (format byte, fields int) {
	if slices.ContainsFunc(s.Points, func(p UsageSample) bool { return p.GPU != GPUSample{} }) {
		return usageFormatGPU, usageFields
	}
	return usageFormat, usageFieldsCPU
}

func (s UsageSample) fields() [usageFields]int64 {
	return [usageFields]int64{s.At.Milliseconds(), s.CPU.Milliseconds(), s.MemoryBytes >> 10,
		s.ReadBytes, s.WrittenBytes, s.SentBytes, s.ReceivedBytes, s.GPU.Busy.Milliseconds(), s.GPU.MemoryBytes >> 10, s.GPU.Millijoules}
}

func sampleOf(v [usageFields]int64) UsageSample {
	return UsageSample{At: time.Duration(v[0]) * time.Millisecond, CPU: time.Duration(v[1]) * time.Millisecond, MemoryBytes: v[2] << 10,
		ReadBytes: v[3], WrittenBytes: v[4], SentBytes: v[5], ReceivedBytes: v[6],
		GPU: GPUSample{Busy: time.Duration(v[7]) * time.Millisecond, MemoryBytes: v[8] << 10, Millijoules: v[9]}}
}

// UnmarshalBinary reads what MarshalBinary wrote.
func (s *UsageSeries) UnmarshalBinary(b []byte) error {
	r := varints{rest: b}
	fields := usageFieldsCPU
	switch {
	case len(b) > 0 && b[0] == usageFormatGPU:
		fields = usageFields
	case len(b) == 0 || b[0] != usageFormat:
		return Errorf(CodeInternal, "what an attempt used is written in another way")
	}
	r.rest = b[1:]
	start, step, n := r.signed(), r.unsigned(), r.unsigned()
	if n > MaxUsagePoints || step > math.MaxInt64/uint64(time.Millisecond) {
		return Errorf(CodeInternal, "what an attempt used has %d points", n)
	}
	*s = UsageSeries{Start: time.UnixMicro(start).UTC(), Step: time.Duration(step) * time.Millisecond}
	var v [usageFields]int64
	for range n {
		for i := range fields {
			v[i] += r.signed()
		}
		s.Points = append(s.Points, sampleOf(v))
	}
	if r.short {
		return Errorf(CodeInternal, "what an attempt used is cut off")
	}
	return nil
}

// varints reads numbers one after the other.
type varints struct {
	rest  []byte
	short bool
}

func (r *varints) signed() int64 {
	v, n := binary.Varint(r.rest)
	r.skip(n)
	return v
}

func (r *varints) unsigned() uint64 {
	v, n := binary.Uvarint(r.rest)
	r.skip(n)
	return v
}

func (r *varints) skip(n int) {
	if n <= 0 {
		r.rest, r.short = nil, true
		return
	}
	r.rest = r.rest[n:]
}
