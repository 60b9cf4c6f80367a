// Package forge is Nimbus's side of GitHub: webhooks in, App calls out.
//
// NewWebhook verifies and parses what GitHub sends and hands it to one
// function, inside which the effect is committed; it calls nobody else, so a
// delivery is answered as fast as the database commits. App makes the calls
// that a job needs: a runner's just-in-time configuration, a job's status, the
// removal of a runner, and the lists by which internal/demand finds what was not
// told. Each call waits for, or is refused by, a limiter that knows GitHub's
// limits (limiter.go).
//
// What GitHub sends is signed but not trusted further than that: every field
// that is kept has a bound and a form (see event.go), because job names,
// branches and labels are written by whoever can push.
package forge
