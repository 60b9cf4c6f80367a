package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// TestVerdict pins what a job's end means for the exit code.
func TestVerdict(t *testing.T) {
	t.Parallel()
	job := func(r nimbus.Result, code *int, reason nimbus.ReasonCode, message string) nimbus.Job {
		return nimbus.Job{State: nimbus.StateFinished, Result: r, ExitCode: code, Reason: nimbus.Reason{Code: reason, Message: message}}
	}
	for name, tt := range map[string]struct {
		job  nimbus.Job
		f    following
		want int
	}{
		"success":              {job: job(nimbus.ResultSuccess, new(0), "", ""), want: 0},
		"its own code":         {job: job(nimbus.ResultFailure, new(3), "", ""), want: 3},
		"highest code":         {job: job(nimbus.ResultFailure, new(255), "", ""), want: 255},
		"killed by the kernel": {job: job(nimbus.ResultFailure, nil, nimbus.ReasonKilled, "its process was ended by SIGKILL"), want: 137},
		"killed by itself":     {job: job(nimbus.ResultFailure, nil, nimbus.ReasonKilled, "its process was ended by SIGSEGV"), want: 139},
		"sandbox failed":       {job: job(nimbus.ResultFailure, nil, nimbus.ReasonSandboxFailed, "x"), want: ExitInfrastructure},
		"out of memory":        {job: job(nimbus.ResultFailure, new(1), nimbus.ReasonLimit, "x"), want: ExitInfrastructure},
		"lost":                 {job: job(nimbus.ResultLost, nil, nimbus.ReasonLeaseExpired, "x"), want: ExitLost},
		"timed out":            {job: job(nimbus.ResultTimedOut, nil, nimbus.ReasonTimeout, "x"), want: ExitTimedOut},
		"cancelled by others":  {job: job(nimbus.ResultCancelled, nil, nimbus.ReasonCancelledByUser, "x"), want: ExitCancelled},
		"cancelled by Ctrl-C":  {job: job(nimbus.ResultCancelled, nil, nimbus.ReasonCancelledByUser, "x"), f: following{stopped: unix.SIGINT}, want: ExitInterrupted},
		"cancelled by SIGTERM": {job: job(nimbus.ResultCancelled, nil, nimbus.ReasonCancelledByUser, "x"), f: following{stopped: unix.SIGTERM}, want: 143},
		"cancelled by SIGHUP":  {job: job(nimbus.ResultCancelled, nil, nimbus.ReasonCancelledByUser, "x"), f: following{stopped: unix.SIGHUP}, want: 129},
		"done despite Ctrl-C":  {job: job(nimbus.ResultSuccess, new(0), "", ""), f: following{stopped: unix.SIGINT}, want: 0},
		"nobody can run it":    {job: job(nimbus.ResultCancelled, nil, nimbus.ReasonNoHost, "x"), f: following{unschedulable: true}, want: ExitUnschedulable},
	} {
		if got := exitCode(tt.f.verdict(tt.job)); got != tt.want {
			t.Errorf("%s: exit code %d, want %d", name, got, tt.want)
		}
	}
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("x"), ExitFailure},
		{nimbus.Errorf(nimbus.CodeNotFound, "x"), ExitFailure},
		{nimbus.Errorf(nimbus.CodeUnavailable, "the disk is full"), ExitFailure},
		{fmt.Errorf("upload: %w", nimbus.Errorf(nimbus.CodeUnavailable, "x: %w", wire.Unreachable(io.EOF))), ExitUnreachable},
		{errors.Join(wire.ToError(connect.NewError(connect.CodeUnavailable, io.EOF)), errors.New("x")), ExitUnreachable},
		{wire.ToError(wire.Error(nimbus.Errorf(nimbus.CodeUnavailable, "the database does not answer"))), ExitFailure},
		{context.Canceled, ExitInterrupted},
		{&exitError{code: 9}, 9},
	} {
		if got := exitCode(tt.err); got != tt.want {
			t.Errorf("%v: %d, want %d", tt.err, got, tt.want)
		}
	}
}
