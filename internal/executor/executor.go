// Package executor is the contract between the host agent and what gives jobs
// their sandboxes. Each executor is a sub-package; executortest is the suite
// that all of them pass.
package executor

import (
	"context"
	"net"
	"time"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// Executor makes sandboxes. Its methods are safe for concurrent use.
type Executor interface {
	// Name is the word in a class, nimbus.ExecutorMicroVM for example.
	Name() string
	// Status tells whether this machine can make sandboxes, by trying what can
	// only be known by trying. It ends within ctx and never fails: a machine
	// that can't is an answer, with a hint.
	Status(ctx context.Context) nimbus.ExecutorStatus
	// Create makes a sandbox and returns once its guest can be dialled. What it
	// made before an error, it has removed. An unknown image is an error with
	// code not_found. When ctx ends, creation is given up. An agent that is killed
	// meanwhile leaves what Adopt and Destroy remove as far as Dir tells of it, and
	// Sweep the rest; after that it may be asked for again.
	Create(ctx context.Context, spec Spec) (Sandbox, error)
	// Adopt finds a sandbox again that an earlier process of the agent created
	// in dir, whatever state it is in; even one whose processes are gone can be
	// waited for and destroyed. Not_found means that nothing of it exists.
	Adopt(ctx context.Context, id, dir string) (Sandbox, error)
	// Sweep removes everything on this host that this executor made for this
	// agent (told by names and directories that it owns) and that is none of the
	// sandboxes to keep. Those it asks for once it has seen what there is: one
	// that is made meanwhile is either not seen, or known. It returns the ids it
	// removed.
	Sweep(ctx context.Context, keep func() []string) ([]string, error)
}

// Reclaimer is an Executor that keeps what can be had again, like images.
type Reclaimer interface {
	// Reclaim removes what no sandbox uses, the longest unused first, until so
	// many percent of the disk it lies on are in use, and returns how many bytes
	// that gave. What can't be had again stays.
	Reclaim(ctx context.Context, percent int) (freed int64, err error)
}

// Warmer is an Executor that keeps sandboxes ready before a job asks for one.
type Warmer interface {
	// Warm is the class of each sandbox that is ready. It is asked at each poll,
	// so it answers from memory. A class that is named here is placed on this
	// host before others.
	Warm() []nimbus.Class
	// KeepWarm makes sandboxes ready, and removes them when ctx ends. Free is
	// what jobs could take now; changed is called, and does not wait, when Warm
	// answers something else. It returns at once where there is nothing to keep.
	KeepWarm(ctx context.Context, free func() nimbus.Capacity, changed func()) error
}

// Fetcher is an Executor whose sandboxes are of images that it fetches.
type Fetcher interface {
	// KeepImages has images be here that jobs lately asked for, before the next one
	// does, until ctx ends: none while may says no.
	KeepImages(ctx context.Context, may func() bool)
}

// Equipped is an Executor that gives jobs hardware of their own.
type Equipped interface {
	// Equipment is what there is of it now, fit for work. It is asked at each
	// poll, so it answers from memory; before Status was asked it is empty.
	Equipment() Equipment
	// Watch keeps an eye on it until ctx ends. changed is called, and does not
	// wait, when Equipment answers something else.
	Watch(ctx context.Context, changed func()) error
}

// Equipment is hardware that jobs get for themselves.
type Equipment struct {
	GPUs         []nimbus.GPUGroup
	Faults       []nimbus.GPUFault // those that are there, and no job gets
	Capabilities []string          // words that a job can need, as it is there
}

// Spec is a sandbox to be made.
type Spec struct {
	// ID is the attempt's id: a checked nimbus id, so it may be a file name.
	ID string
	// Dir is the sandbox's own directory. It exists, is empty, is on a local
	// disk, belongs to the agent alone, and is removed by the agent after
	// Destroy. Adopt gets the same one. Keep paths of sockets in it short: a
	// unix socket's path holds 107 bytes.
	Dir   string
	Class nimbus.Class
	// Reserved is what the host has set aside for it: of which kind its GPUs are
	// is in there alone.
	Reserved nimbus.Reservation
	// Deadline is how long the sandbox lives without a Renew, counted on the
	// host's boot-time clock: the shim kills it then, agent or not.
	Deadline time.Duration
	// Tell takes a few words on what takes long, for the job's log. It is called
	// by Create's own goroutine; nil is nobody.
	Tell func(what string)
}

// ImageError is a Create that failed for what the job's image is: it would fail
// again, here and elsewhere.
type ImageError struct{ Err error }

// Error tells what is wrong with the image.
func (e *ImageError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *ImageError) Unwrap() error { return e.Err }

// Furnished is a Sandbox whose image sets variables for every process in it.
// What a job sets itself comes before them. It is asked before the job starts
// alone: a sandbox that was adopted need not know.
type Furnished interface {
	Env() []string // KEY=VALUE
}

// Dated is a Sandbox that tells where it came from. One that does not was made
// for its job. It is asked of one that was just created: a sandbox that was
// adopted need not know.
type Dated interface {
	Origin() nimbus.Origin
}

// Carrier is a Sandbox whose image GitHub's runner was not made for.
type Carrier interface {
	// CarryRunner tells why it can't take a job of GitHub's, nil if it can. It is
	// asked of one that was just created, before a runner is registered. An
	// ImageError means that it would be the same anew.
	CarryRunner(ctx context.Context) error
}

// Metered is a Sandbox whose use of the host can be read.
type Metered interface {
	// Usage is what the sandbox has used since it was made, or in all once it has
	// ended; At is not set. It is asked each second, so it is cheap. An error
	// means that this is not known now.
	Usage(ctx context.Context) (nimbus.UsageSample, error)
}

// Accelerated is a Sandbox that has GPUs whose use can be read.
type Accelerated interface {
	// GPUUsage is as Metered's Usage, of GPUs alone.
	GPUUsage(ctx context.Context) (nimbus.GPUSample, error)
}

// Limited is a Sandbox that tells whether the kernel has killed anything in it
// because it needed more memory than it may have.
type Limited interface {
	OutOfMemory(ctx context.Context) (bool, error)
}

// Doored is a Sandbox whose guest owns a machine with a network of its own, at whose
// gateway the host answers.
type Doored interface {
	// NetworkID is what those who answer there are told that a connection is of.
	NetworkID() string
}

// Sandbox is one sandbox, used for one attempt.
type Sandbox interface {
	ID() string
	// Dial opens a new connection to the guest, which serves GuestService over
	// h2c on it. A new connection may end the one before.
	Dial(ctx context.Context) (net.Conn, error)
	// Token is what calls to the guest carry; "" where only the agent can dial.
	Token() string
	// Network is what Prepare must tell the guest; nil when the sandbox has its
	// network already.
	Network() *nimbusv1.NetworkConfig
	// Renew moves the shim's deadline to d from now.
	Renew(ctx context.Context, d time.Duration) error
	// Wait returns when the sandbox has ended by itself, by Kill or by its
	// deadline. It may be called more than once.
	Wait(ctx context.Context) (Exit, error)
	// Kill ends every process of the sandbox at once. Idempotent.
	Kill(ctx context.Context) error
	// Destroy kills, removes everything outside of Dir (taps, namespaces,
	// cgroups, mounts) and checks that it is gone. Idempotent; an error means
	// that something is left, and Sweep will try again.
	Destroy(ctx context.Context) error
}

// Exit is how a sandbox ended, as its shim saw it.
type Exit struct {
	// Cause tells who ended it.
	Cause ExitCause
	// Code is the exit code of the sandbox's first process (the VMM, the guest
	// in a container), -1 when a signal ended it. It is not the job's.
	Code   int
	Signal string
	// OutOfMemory says that the kernel killed of it because it needed more memory
	// than it may have.
	OutOfMemory bool
	// Detail is the end of what that process wrote to stderr or its console,
	// bounded and printable: for the operator's log, never for the job's.
	Detail string
	// Why says it in a few words to whom the job belongs, where Cause does not;
	// "" where nothing is known. They are ours, never the guest's.
	Why string
}

// ExitCause tells who ended a sandbox.
type ExitCause string

// The causes.
const (
	ExitSelf     ExitCause = "self"     // it ended by itself
	ExitKilled   ExitCause = "killed"   // Kill or Destroy
	ExitDeadline ExitCause = "deadline" // not renewed in time
	ExitUnknown  ExitCause = "unknown"  // its shim left no record: the host was cut off
)
