package main

import (
	"errors"
	"os"
	"time"

	"github.com/nimbus-ci/nimbus/bench/process"
)

// spending is what CPU the parts of a bench used, which drifts less on a busy
// machine than how long they took.
type spending struct {
	server, database int // processes
	used             [3]time.Duration
}

// during counts what is used while f runs.
func (s *spending) during(f func() error) error {
	before, err1 := s.now()
	err2 := f()
	after, err3 := s.now()
	for i := range s.used {
		s.used[i] += after[i] - before[i]
	}
	return errors.Join(err1, err2, err3)
}

func (s *spending) now() (out [3]time.Duration, err error) {
	var errs [3]error
	out[0], errs[0] = process.CPU(s.server)
	out[1], errs[1] = process.TreeCPU(s.database)
	out[2], errs[2] = process.CPU(os.Getpid())
	return out, errors.Join(errs[:]...)
}

// perCycle is in milliseconds: of the server, of PostgreSQL, and of the hosts
// and GitHub, which are this process.
func (s *spending) perCycle(n int) map[string]float64 {
	out := map[string]float64{}
	for i, of := range []string{"server", "postgres", "hosts"} {
		out[of] = s.used[i].Seconds() * 1000 / float64(n)
	}
	return out
}
