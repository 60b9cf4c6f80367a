package near

import "time"

// BePatient is for how long requests wait for room, before the door runs.
func (d *Door) BePatient(as time.Duration) { d.shares.patience = as }

// Waiting tells how many do.
func (d *Door) Waiting() int {
	d.shares.mu.Lock()
	defer d.shares.mu.Unlock()
	return len(d.shares.queue)
}

// Busy tells how many are let in, and of how many callers something is known.
func (d *Door) Busy() (requests, callers int) {
	d.shares.mu.Lock()
	defer d.shares.mu.Unlock()
	return d.shares.busy, len(d.shares.of)
}

// Bounds of what one caller may have.
const (
	MaxRequests = maxRequests
	MaxWaiting  = maxWaiting
	SharePart   = sharePart
)

// GiveWay holds the copies to their bounds now, as the door does now and then.
func (d *Door) GiveWay() { d.tier.Load().shelf.giveWay(d.cfg.over()) }
