// Package scheduler decides which job runs where and when, and keeps the books
// about it. It knows of GitHub what the interface Forge tells, and of SQL what
// the interface Store does; it has no state of its own, so that any number of
// replicas can work on one database.
//
// # Life of a lease
//
// A job is admitted (admit.go) as pending, in the backlog of its class. A class
// is the set of its requirements; place decides which one it is, and whether
// there is a host that can serve it. promote (fair.go) moves jobs to queued, a
// small window that hosts claim from, and gives them their rank: start-time
// fair queueing over orgs and then repos.
//
// A host polls (poll.go) with what it has free. claim takes the jobs with the
// lowest ranks that fit and makes an offer of each: an Attempt, with a fencing
// token that is higher than all before. For three seconds the offer is the
// host's, and is repeated on its polls, since the first answer may have been
// lost. Then it lapses: the job is queued again with its old rank. The host may
// still accept late, until the job is offered anew.
//
//	offered ──accept──▶ live ──Finish, or the lease ran out──▶ ended
//	   └─3 s─▶ lapsed ──accept, still the last offer──▶ live
//
// Accept (accept.go) makes the offer a lease of 30 seconds by the database's
// clock. Heartbeats (hosts.go) renew all leases of a host at once and bring
// back what to do about each: keep, cancel, or fenced. A lease that ran out is
// never renewed: by then its shim has killed the sandbox, five seconds before
// the job can be given on. Every write of a host names attempt and fencing
// token; one that is not the host's, or is over, is refused with CodeFenced.
//
// A native job runs when its process does and ends with it (phase.go,
// finish.go). A GitHub job is bound when GitHub says that the attempt's runner
// has it (bind.go), which may be another job than the attempt was made for;
// then the books follow what really runs. It ends when GitHub says so. What
// GitHub does not tell it is asked for (check.go), outside any transaction.
//
// Everything that can last too long has its end in sweep.go: offers, leases,
// states. What becomes of a job whose host went silent is the table of
// leaseLost.
//
// # Transactions
//
// Each step is one transaction (unit, in service.go) that first locks the rows
// of the jobs that it changes; a job's attempts and its place in the queue are
// guarded by that lock. At its end it locks the tags of all flows that it may
// charge, at once, and last of all counts against limits (settle, in batch.go):
// an order that all transactions have, so that they never wait in a ring.
// Heartbeats alone do without: the version of an
// attempt's row makes whoever decided from an older one decide again. What
// others have to be told (the bus, tokens, GitHub) is told after the commit;
// what must not be forgotten is also in the row, as CheckAt, RemoveRunnerAt or
// TokenTodo, and is done by a sweep if the process dies in between.
package scheduler
