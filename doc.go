// Package nimbus is the vocabulary of Nimbus, a self-hosted CI platform: jobs
// and their states, hosts, leases, classes, log lines, errors. It imports the
// standard library only, holds no behaviour that needs a database or a network,
// and is what every room of the house may import.
//
// docs/ARCHITECTURE.md tells how the rooms work together.
package nimbus
