package wire

import (
	"time"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// UsageTotals makes a message; nothing used is absent.
func UsageTotals(t nimbus.UsageTotals) *nimbusv1.UsageTotals {
	if t == (nimbus.UsageTotals{}) {
		return nil
	}
	return &nimbusv1.UsageTotals{CpuTime: Duration(t.CPUTime), PeakMemoryBytes: t.PeakMemoryBytes, ReadBytes: t.ReadBytes,
		WrittenBytes: t.WrittenBytes, SentBytes: t.SentBytes, ReceivedBytes: t.ReceivedBytes, PeakCpus: t.PeakCPUs,
		GpuTime: Duration(t.GPU.Busy), PeakGpuMemoryBytes: t.GPU.PeakMemoryBytes, GpuMillijoules: t.GPU.Millijoules}
}

// ToUsageTotals reads one.
func ToUsageTotals(m *nimbusv1.UsageTotals) nimbus.UsageTotals {
	return nimbus.UsageTotals{CPUTime: m.GetCpuTime().AsDuration(), PeakMemoryBytes: m.GetPeakMemoryBytes(), ReadBytes: m.GetReadBytes(),
		WrittenBytes: m.GetWrittenBytes(), SentBytes: m.GetSentBytes(), ReceivedBytes: m.GetReceivedBytes(), PeakCPUs: m.GetPeakCpus(),
		GPU: nimbus.GPUTotals{Busy: m.GetGpuTime().AsDuration(), PeakMemoryBytes: m.GetPeakGpuMemoryBytes(), Millijoules: m.GetGpuMillijoules()}}
}

// UsageSeries makes a message; one without points is absent.
func UsageSeries(s nimbus.UsageSeries) *nimbusv1.UsageSeries {
	if len(s.Points) == 0 {
		return nil
	}
	out := &nimbusv1.UsageSeries{StartAt: Time(s.Start), Step: Duration(s.Step), Points: make([]*nimbusv1.UsagePoint, len(s.Points))}
	for i, p := range s.Points {
		out.Points[i] = &nimbusv1.UsagePoint{AtMs: p.At.Milliseconds(), CpuMs: p.CPU.Milliseconds(), MemoryBytes: p.MemoryBytes,
			ReadBytes: p.ReadBytes, WrittenBytes: p.WrittenBytes, SentBytes: p.SentBytes, ReceivedBytes: p.ReceivedBytes,
			GpuMs: p.GPU.Busy.Milliseconds(), GpuMemoryBytes: p.GPU.MemoryBytes, GpuMillijoules: p.GPU.Millijoules}
	}
	return out
}

// ToUsageSeries reads one. A number of milliseconds that is none becomes one
// that no check lets through.
func ToUsageSeries(m *nimbusv1.UsageSeries) nimbus.UsageSeries {
	s := nimbus.UsageSeries{Start: ToTime(m.GetStartAt()), Step: m.GetStep().AsDuration()}
	for _, p := range m.GetPoints() {
		s.Points = append(s.Points, nimbus.UsageSample{At: milliseconds(p.GetAtMs()), CPU: milliseconds(p.GetCpuMs()), MemoryBytes: p.GetMemoryBytes(),
			ReadBytes: p.GetReadBytes(), WrittenBytes: p.GetWrittenBytes(), SentBytes: p.GetSentBytes(), ReceivedBytes: p.GetReceivedBytes(),
			GPU: nimbus.GPUSample{Busy: milliseconds(p.GetGpuMs()), MemoryBytes: p.GetGpuMemoryBytes(), Millijoules: p.GetGpuMillijoules()}})
	}
	return s
}

func milliseconds(n int64) time.Duration {
	d := time.Duration(n) * time.Millisecond
	if d.Milliseconds() != n {
		return -1
	}
	return d
}
