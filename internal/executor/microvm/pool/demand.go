// Package pool decides how many machines of each class are kept ready. It is
// arithmetic alone: what comes in is what was asked for and what is free, what
// comes out are numbers. The executor makes and removes the machines.
package pool

import (
	"math"
	"time"
)

const (
	// memory is over what time the recent rate is an average.
	memory = 10 * time.Minute
	// today is how much one day counts against all days before it.
	today = 0.3
	hours = 24
)

// Demand is when jobs of one class came. Its zero value has seen none.
type Demand struct {
	recent float64   // jobs a second, as of last
	last   time.Time // when the last job came
	usual  [hours]float64
	hour   time.Time // the hour that is being counted
	count  float64   // jobs that came in it
}

// Arrive is d after one more job came.
func (d Demand) Arrive(now time.Time) Demand {
	d = d.roll(now)
	d.recent = d.recentAt(now) + 1/memory.Seconds()
	d.last = now
	d.count++
	return d
}

// Rate is how many jobs a second are to be expected from now on: as many as
// came lately, or as usually come at this hour, whichever is more.
func (d Demand) Rate(now time.Time) float64 {
	d = d.roll(now)
	return max(d.recentAt(now), d.usual[now.UTC().Hour()]/time.Hour.Seconds())
}

// Forgotten tells that nothing is left to expect.
func (d Demand) Forgotten(now time.Time) bool {
	d = d.roll(now)
	const hardly = 0.01 // jobs in an hour
	for _, usual := range d.usual {
		if usual > hardly {
			return false
		}
	}
	return d.count == 0 && d.recentAt(now)*time.Hour.Seconds() < hardly
}

func (d Demand) recentAt(now time.Time) float64 {
	if d.last.IsZero() {
		return 0
	}
	return d.recent * math.Exp(-max(now.Sub(d.last), 0).Seconds()/memory.Seconds())
}

// roll ends the hours that have passed since the last job.
func (d Demand) roll(now time.Time) Demand {
	hour := now.UTC().Truncate(time.Hour)
	if d.hour.IsZero() {
		d.hour = hour
	}
	const longest = 60 * hours // after that all is forgotten anyway
	for range longest {
		if !d.hour.Before(hour) {
			return d
		}
		usual := &d.usual[d.hour.Hour()]
		*usual = (1-today)**usual + today*d.count
		d.hour, d.count = d.hour.Add(time.Hour), 0
	}
	return Demand{recent: d.recent, last: d.last, hour: hour}
}
