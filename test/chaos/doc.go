// Package chaos breaks everything at once and then looks whether the promises
// were kept: no job lost, none with two live executions at one time, no move
// that the table of states does not have, nothing left behind.
//
// Three replicas of `nimbus server`, real processes, share one PostgreSQL and
// one Redis, each reached through a proxy that fails; twenty simulated hosts
// (test/simhost) reach the replicas through a load balancer that fails. Seeded
// chance kills replicas with SIGKILL and stops them past their leadership,
// kills agents, takes power from hosts and pauses them past their leases, cuts,
// delays, holds back and reorders connections, and restarts PostgreSQL and
// Redis. Hosts keep records, by the monotonic clock, of when which process
// could run: what the control plane believes counts for nothing.
//
//	go test ./test/chaos                              # 300 jobs, a new seed
//	go test ./test/chaos -chaos.seed 42               # the faults of a run again
//	go test ./test/chaos -chaos.jobs 5000 -timeout 60m
//
// A seed gives the same faults at the same times; what they hit depends on the
// machine.
//
// What it can't see: the comparison of hosts and fencing numbers in
// internal/scheduler/lease.go, since these hosts are honest and never have each
// other's leases. Without it seeds 7 and 42 stay green; TestLeaseProtocol in
// internal/scheduler, which forges leases, does not. docs/testing.md has more.
package chaos
