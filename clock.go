package nimbus

import "time"

// Clock tells the time. Rooms take one so that tests can move it; the store
// has its own, nimbus_now(), which is the one that decides about leases.
type Clock interface {
	Now() time.Time
}

// SystemClock is the machine's clock.
type SystemClock struct{}

// Now returns the current time in UTC.
func (SystemClock) Now() time.Time { return time.Now().UTC() }
