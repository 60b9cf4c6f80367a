// Package chaos breaks everything at once and then looks whether the promises
// were kept: no job lost, none with two live executions at one time, no move
// that the table of states does not have, nothing left behind.
//
// Three replicas of `nimbus server`, real processes, share one PostgreSQL and
// one Redis, each reached through a proxy that fails; twenty simulated hosts
// (test/simhost) reach the replicas through a load balancer that fails. Two jobs
// of three are submitted; the third comes by signed webhooks from the double of
// GitHub, through the same load balancer, some of them late or twice, and needs
// a runner, to which GitHub may give another job. Seeded chance kills replicas
// with SIGKILL and stops them past their leadership, kills agents, takes power
// from hosts and pauses them past their leases, cuts, delays, holds back and
// reorders connections, and restarts PostgreSQL and Redis. Hosts keep records,
// by the monotonic clock, of when which process could run: what the control
// plane believes counts for nothing.
//
// Hosts are not honest either. One that was paused past its leases speaks of
// the jobs that others have by now, with its old fencing number; what a host has
// sent, the end of a job in it, arrives when its lease is long another's; a host
// that was set up from another's disk tells that the processes which that disk
// knows of are dead, while they run on the other. Each renews, reports a start,
// a line of the log and an end. None may be believed.
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
//   - internal/scheduler/lease.go: the comparison of host and fencing number.
//     All is believed: "was believed: host_…, which is a host that had it
//     before, on att_… with fence 41: [\"start\" \"end\"]"; and so jobs end that
//     run: "job … is finished success by att_…, and its machines saw … \"fenced\",
//     acknowledged false".
//   - internal/scheduler/lease.go: the number alone. The host that has a job is
//     believed with the number of the one before, and the job ends while it runs.
//   - internal/scheduler/finish.go: that the attempt is live, and that it is the
//     job's newest. Hosts that were paused past their leases then end jobs that
//     others run: "job … is finished lost by att_…, and its machines saw …
//     \"done\", acknowledged true".
//   - test/simhost/sandbox.go: the shim's deadline. Paused hosts go on when
//     others have their jobs: "job … lived twice for 8.9 s".
//
// An attempt is offered once, to one host, with a number of its own. So a late
// report that names its own attempt meets the state of that attempt first, in
// finish.go and phase.go; the comparison in lease.go is for reports that name
// another's. To see either, the other has to stay as it is.
package chaos
