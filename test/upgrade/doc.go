// Package upgrade replaces one release by the next while jobs run: a replica of
// each serves on one PostgreSQL, behind one load balancer, with a host of each,
// and then the older ones are drained and stopped. Then the way back: the older
// replica is started again on what the newer one has made of the tables, and the
// newer one stopped. No job may fail for it.
//
//	go test ./test/upgrade -v
//
// BASELINE names the older release by its commit, which is built from the
// history of this repository. What the test holds migrations to: a replica that
// knows nothing of them goes on working.
package upgrade
