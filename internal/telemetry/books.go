package telemetry

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// Books are asked when metrics are read. Every replica tells the same of them.
type Books interface {
	Depths(ctx context.Context) ([]scheduler.Depth, error)
	HostCounts(ctx context.Context) (map[nimbus.HostState]int, error)
	ClosedCounts(ctx context.Context) (map[nimbus.Pressure]int, error)
	WarmCounts(ctx context.Context) (map[nimbus.Class]int, error)
}

const (
	// booksFresh is how long an answer of the books is told again: who reads
	// metrics often does not make the database work more.
	booksFresh = 5 * time.Second
	// booksTimeout bounds the questions.
	booksTimeout = 3 * time.Second
	// classesTold is how many classes have metrics of their own, those with the
	// most jobs; the others are told together.
	classesTold = 20
	otherClass  = "other"
)

// booksCollector tells what waits, and who is there.
type booksCollector struct {
	books                          Books
	log                            *slog.Logger
	jobs, age, hosts, warm, closed *prometheus.Desc
	classes                        classNames
	now                            func() time.Time
	mu                             sync.Mutex
	readAt                         time.Time
	last                           []prometheus.Metric
}

// ReadBooks has the metrics tell of books.
func (m *Metrics) ReadBooks(b Books, log *slog.Logger) {
	m.registry.MustRegister(&booksCollector{books: b, log: log, now: time.Now,
		jobs:   prometheus.NewDesc("nimbus_queue_jobs", "Jobs that wait, by class and state; the same on all replicas.", []string{"class", "state"}, nil),
		age:    prometheus.NewDesc("nimbus_queue_oldest_seconds", "Time since the oldest job that waits was admitted, by class and state; the same on all replicas.", []string{"class", "state"}, nil),
		hosts:  prometheus.NewDesc("nimbus_hosts", "Hosts by state; the same on all replicas.", []string{"state"}, nil),
		closed: prometheus.NewDesc("nimbus_hosts_closed", "Hosts that are ready and ask for no jobs because they are hard pressed, by what they have too little of; the same on all replicas.", []string{"pressure"}, nil),
		warm:   prometheus.NewDesc("nimbus_warm_sandboxes", "Sandboxes that wait for a job on hosts that are ready, by class; the same on all replicas.", []string{"class"}, nil),
	})
}

// Describe implements prometheus.Collector.
func (c *booksCollector) Describe(out chan<- *prometheus.Desc) {
	out <- c.jobs
	out <- c.age
	out <- c.hosts
	out <- c.warm
	out <- c.closed
}

// Collect implements prometheus.Collector. Where the books don't answer there
// is nothing to tell: the other metrics are told all the same.
func (c *booksCollector) Collect(out chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.now(); c.readAt.IsZero() || now.Sub(c.readAt) >= booksFresh {
		ctx, cancel := context.WithTimeout(context.Background(), booksTimeout)
		defer cancel()
		read, err := c.read(ctx)
		if err != nil {
			c.log.WarnContext(ctx, "the books can't be read for metrics", "error", err)
		}
		c.last, c.readAt = read, now
	}
	for _, metric := range c.last {
		out <- metric
	}
}

func (c *booksCollector) read(ctx context.Context) ([]prometheus.Metric, error) {
	depths, err := c.books.Depths(ctx)
	if err != nil {
		return nil, err
	}
	hosts, err := c.books.HostCounts(ctx)
	if err != nil {
		return nil, err
	}
	closed, err := c.books.ClosedCounts(ctx)
	if err != nil {
		return nil, err
	}
	waiting, err := c.books.WarmCounts(ctx)
	if err != nil {
		return nil, err
	}
	var out []prometheus.Metric
	warm := map[string]int{}
	for class, n := range waiting {
		warm[c.classes.label(class)] += n
	}
	for label, n := range warm {
		out = append(out, prometheus.MustNewConstMetric(c.warm, prometheus.GaugeValue, float64(n), label))
	}
	for state, n := range hosts {
		out = append(out, prometheus.MustNewConstMetric(c.hosts, prometheus.GaugeValue, float64(n), string(state)))
	}
	for _, p := range nimbus.Pressures() {
		out = append(out, prometheus.MustNewConstMetric(c.closed, prometheus.GaugeValue, float64(closed[p]), string(p)))
	}
	for at, d := range told(depths) {
		out = append(out,
			prometheus.MustNewConstMetric(c.jobs, prometheus.GaugeValue, float64(d.jobs), at.class, string(at.state)),
			prometheus.MustNewConstMetric(c.age, prometheus.GaugeValue, d.age.Seconds(), at.class, string(at.state)))
	}
	return out, nil
}

// place is what a depth is told under.
type place struct {
	class string
	state nimbus.State
}

type depth struct {
	jobs int
	age  time.Duration
}

// told adds up depths by what may be a label: of the classes that differ there,
// those with the most jobs, and the others as one.
func told(depths []scheduler.Depth) map[place]depth {
	jobs := map[string]int{}
	for _, d := range depths {
		jobs[classLabel(d.Class)] += d.Jobs
	}
	labels := make([]string, 0, len(jobs))
	for label := range jobs {
		labels = append(labels, label)
	}
	slices.SortFunc(labels, func(a, b string) int { return cmp.Or(cmp.Compare(jobs[b], jobs[a]), cmp.Compare(a, b)) })
	own := labels[:min(len(labels), classesTold)]
	out := map[place]depth{}
	for _, d := range depths {
		label := classLabel(d.Class)
		if !slices.Contains(own, label) {
			label = otherClass
		}
		at := place{label, d.State}
		sum := out[at]
		out[at] = depth{sum.jobs + d.Jobs, max(sum.age, d.Age)}
	}
	return out
}

// classNames are the classes that counters are kept of, each from its first on:
// the first classesTold that came, and the others as one.
type classNames struct {
	mu   sync.Mutex
	told map[string]bool
}

func (n *classNames) label(c nimbus.Class) string {
	label := classLabel(c)
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.told[label]:
	case len(n.told) >= classesTold:
		return otherClass
	case n.told == nil:
		n.told = map[string]bool{label: true}
	default:
		n.told[label] = true
	}
	return label
}

// classLabel is the size of a class in words: what hosts are bought by. Images,
// capabilities and GPU profiles are whatever jobs ask for, and left out.
func classLabel(c nimbus.Class) string {
	label := fmt.Sprintf("%s-%dcpu-%dmib", cmp.Or(c.Executor, "any"), c.CPUs, c.MemoryMiB)
	if c.Arch != "" {
		label += "-" + c.Arch
	}
	if c.GPUs > 0 {
		label += fmt.Sprintf("-%dgpu", c.GPUs)
	}
	return label
}
