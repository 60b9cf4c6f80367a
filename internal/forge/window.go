package forge

import "time"

// window counts what was spent within the last span, for limits that slide.
type window struct {
	span  time.Duration
	most  int
	spent int
	past  []spending // oldest first
}

type spending struct {
	at   time.Time
	cost int
}

// wait is how long it takes until cost fits into share percent of a replica's
// part of the window, of which there are so many.
func (w *window) wait(now time.Time, cost, share, parts int) time.Duration {
	w.forget(now)
	over := w.spent + cost - w.most*share/100/parts
	if over <= 0 {
		return 0
	}
	for _, s := range w.past {
		if over -= s.cost; over <= 0 {
			return s.at.Add(w.span).Sub(now)
		}
	}
	return w.span
}

// spend counts cost. The caller has seen that it fits.
func (w *window) spend(now time.Time, cost int) {
	w.spent += cost
	w.past = append(w.past, spending{now, cost})
}

func (w *window) forget(now time.Time) {
	gone := 0
	for gone < len(w.past) && now.Sub(w.past[gone].at) >= w.span {
		w.spent -= w.past[gone].cost
		gone++
	}
	w.past = w.past[gone:]
}
