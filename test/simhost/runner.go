package simhost

import (
	"context"
	"time"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// GitHub is what a machine's runners speak to.
type GitHub interface {
	// Connect brings the runner of a just-in-time configuration online.
	Connect(jit string) (Runner, error)
	// Work is how long a job of GitHub's takes.
	Work(jobID int64) time.Duration
}

// Runner is GitHub's program in a sandbox.
type Runner interface {
	// Job takes, and then renews, the job that the runner was given; ok is false
	// while it has none, err tells that it is registered no more.
	Job() (id int64, ok bool, err error)
	// Cancelled tells whether GitHub wants the job to end.
	Cancelled() bool
	Finish(conclusion string) error
	// Vanish ends it without a word.
	Vanish()
}

// runnerTick is how often a runner looks for its job and renews it.
const runnerTick = 100 * time.Millisecond

// register gets the sandbox its runner. It tells why there is none.
func (a *agent) register(ctx context.Context, b *sandbox) error {
	bounded, cancel := context.WithTimeout(ctx, nimbus.LeaseDuration)
	defer cancel()
	answer, err := call(bounded, a.Machine, a.API.CreateRunner, &nimbusv1.CreateRunnerRequest{Lease: b.lease})
	if err != nil {
		return err
	}
	runner, err := a.GitHub.Connect(answer.GetEncodedJitConfig())
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.runner = runner
	if b.why != EndNone { // meanwhile
		runner.Vanish()
	}
	return nil
}

// listen lets the runner live until it ends, or until the machine is paused.
func (b *sandbox) listen(had time.Duration) (end End, has time.Duration) {
	tick := time.NewTicker(runnerTick)
	defer tick.Stop()
	pausing := b.machine.gate.pausing()
	s := shift{sandbox: b, before: had}
	if b.record.GitHubJob != 0 {
		s.begin(b.record.GitHubJob)
	}
	defer s.rest()
	for {
		select {
		case <-tick.C:
			if end = s.step(); end != EndNone {
				return end, s.worked()
			}
		case <-b.killed:
			return b.reason(), s.worked()
		case <-pausing:
			return EndNone, s.worked()
		}
	}
}

// shift is a runner between two pauses.
type shift struct {
	*sandbox
	before time.Duration // that it worked before
	began  time.Time     // when its job began or went on; zero while it has none
	work   time.Duration
}

func (s *shift) begin(job int64) {
	s.began, s.work = time.Now(), s.machine.GitHub.Work(job)
	s.machine.records.edit(func() { s.record.GitHubJob = job })
	s.machine.records.lives(s.record)
}

func (s *shift) rest() {
	if !s.began.IsZero() {
		s.machine.records.rests(s.record)
	}
}

func (s *shift) worked() time.Duration {
	if s.began.IsZero() {
		return s.before
	}
	return s.before + time.Since(s.began)
}

// step is what its shim and its listener do again and again.
func (s *shift) step() End {
	if s.left() <= 0 {
		return EndExpired
	}
	id, busy, err := s.runner.Job()
	switch {
	case err != nil && s.began.IsZero():
		return EndIdle
	case err != nil:
		return EndDropped
	case busy && s.began.IsZero():
		s.begin(id)
	case busy && s.runner.Cancelled():
		_ = s.runner.Finish("cancelled") // GitHub may have ended it by itself
		return EndDropped
	case busy && s.worked() >= s.work:
		if s.runner.Finish("success") != nil {
			return EndDropped
		}
		return EndDone
	}
	return EndNone
}
