package report

import (
	"cmp"
	"hash/maphash"
	"slices"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Bounds of a summary: what it tells, and how many keys it knows, which jobs are
// free to invent.
const (
	maxValues = 20
	maxKeys   = 50
	knownKeys = 1000
)

// Summary takes jobs one by one and sums them up: there may be many.
type Summary struct {
	key    string
	jobs   []summedJob
	values map[string]int // their numbers
	keys   map[string]*keyCount
	seed   maphash.Seed
}

// summedJob is what is kept of a job.
type summedJob struct {
	at     time.Time
	ran    time.Duration
	result nimbus.Result
	value  int
}

// keyCount is what is known of a key: values by their hashes, since they may be
// long.
type keyCount struct {
	jobs   int
	values map[uint64]bool
}

// NewSummary makes an empty summary, by the values of a key, or without one.
func NewSummary(key string) *Summary {
	return &Summary{key: key, values: map[string]int{}, keys: map[string]*keyCount{}, seed: maphash.MakeSeed()}
}

// Add takes a job, which has the key.
func (s *Summary) Add(j nimbus.JobOutcome) {
	job := summedJob{at: j.AdmittedAt, ran: j.Ran, result: j.Result}
	if s.key == "" {
		s.count(j.Metadata)
	} else {
		value := j.Metadata[s.key]
		n, ok := s.values[value]
		if !ok {
			n = len(s.values)
			s.values[value] = n
		}
		job.value = n
	}
	s.jobs = append(s.jobs, job)
}

// count takes the keys of a job. Once very many are known, no new ones.
func (s *Summary) count(metadata map[string]string) {
	for key, value := range metadata {
		k := s.keys[key]
		if k == nil {
			if len(s.keys) == knownKeys {
				continue
			}
			k = &keyCount{values: map[uint64]bool{}}
			s.keys[key] = k
		}
		k.jobs++
		k.values[maphash.String(s.seed, value)] = true
	}
}

// Of is the summary of the jobs that were added, which were admitted in a window.
func (s *Summary) Of(w nimbus.SummaryWindow) nimbus.Summary {
	out := nimbus.Summary{SummaryWindow: w, All: outcome(s.jobs, w)}
	if s.key == "" {
		out.Keys, out.OtherKeys = s.toldKeys()
		return out
	}
	by := make([][]summedJob, len(s.values))
	for _, j := range s.jobs {
		by[j.value] = append(by[j.value], j)
	}
	names := make([]string, len(s.values))
	for name, n := range s.values {
		names[n] = name
	}
	order := make([]int, len(names))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(len(by[b]), len(by[a])), strings.Compare(names[a], names[b]))
	})
	var rest []summedJob
	for i, n := range order {
		if i < maxValues {
			out.Values = append(out.Values, nimbus.ValueOutcome{Value: names[n], JobsOutcome: outcome(by[n], w)})
		} else {
			rest = append(rest, by[n]...)
		}
	}
	if len(rest) > 0 {
		out.OtherValues, out.Other = len(order)-maxValues, outcome(rest, w)
	}
	return out
}

func (s *Summary) toldKeys() (told []nimbus.MetadataKey, others int) {
	for key, k := range s.keys {
		told = append(told, nimbus.MetadataKey{Key: key, Jobs: k.jobs, Values: len(k.values)})
	}
	slices.SortFunc(told, func(a, b nimbus.MetadataKey) int {
		return cmp.Or(cmp.Compare(b.Jobs, a.Jobs), strings.Compare(a.Key, b.Key))
	})
	n := min(len(told), maxKeys)
	return told[:n], len(told) - n
}

// outcome is how jobs of a window went. Clocks may differ a little: what lies just
// outside is of the first part of the time, or of the last.
func outcome(jobs []summedJob, w nimbus.SummaryWindow) (o nimbus.JobsOutcome) {
	length := w.Bucket.Length()
	for at := w.Since.UTC().Truncate(length); at.Before(w.Until); at = at.Add(length) {
		o.Trend = append(o.Trend, nimbus.TrendPart{Start: at})
	}
	var ran []time.Duration
	for _, j := range jobs {
		o.Add(j.result)
		part := int(j.at.Sub(o.Trend[0].Start) / length)
		o.Trend[min(max(part, 0), len(o.Trend)-1)].Add(j.result)
		if j.ran >= 0 {
			ran = append(ran, j.ran)
		}
	}
	if len(ran) > 0 {
		slices.Sort(ran)
		o.Runs, o.P50, o.P95 = len(ran), percentile(ran, 50), percentile(ran, 95)
	}
	return o
}
