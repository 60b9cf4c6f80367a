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
// To see that it can fail, take a guard out:
//
//   - internal/scheduler/finish.go: that the attempt is live, and that it is the
//     job's newest. Hosts that were paused past their leases then end jobs that
//     others run: "job … is finished lost by att_…, and its machines saw …
//     \"done\", acknowledged true".
//   - test/simhost/sandbox.go: the shim's deadline. Paused hosts go on when
//     others have their jobs: "job … lived twice for 8.9 s".
//
// What it can't see is the comparison of hosts and fencing numbers in
// internal/scheduler/lease.go: these hosts are honest and never have each
// other's leases. TestLeaseProtocol in internal/scheduler forges leases.
package chaos
