package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// state is what the next agent must know of an attempt. It lies in the
// attempt's folder, for the agent's eyes alone, and goes with it.
type state struct {
	Assignment json.RawMessage `json:"assignment"`
	// Reserved is what the attempt takes of the host.
	Reserved nimbus.Reservation `json:"reserved"`
	// Start is the request that started the process, written before it is
	// sent: with it an attempt can be taken over, without it not.
	Start   json.RawMessage `json:"start,omitempty"`
	Started time.Time       `json:"started"`
	// CacheTrust is the authority of the door to GitHub's cache that the sandbox was
	// given; "" where it has no such door.
	CacheTrust string `json:"cacheTrust,omitempty"`
	// Secrets must not be seen in the log.
	Secrets []string `json:"secrets,omitempty"`
	// Outcome is set once the process has ended.
	Outcome json.RawMessage `json:"outcome,omitempty"`
}

const stateFile = "attempt.json"

// save writes the state to disk.
func (t *attempt) save() error {
	if err := writeJSON(filepath.Join(t.dir, stateFile), t.state); err != nil {
		return fmt.Errorf("keep the attempt's state: %w", err)
	}
	return nil
}

// loadState reads what an earlier process kept.
func loadState(dir string) (state, nimbus.Assignment, error) {
	var s state
	raw, err := os.ReadFile(filepath.Join(dir, stateFile))
	if err != nil {
		return s, nimbus.Assignment{}, fmt.Errorf("read the attempt's state: %w", err)
	}
	if err := json.Unmarshal(raw, &s); err != nil { //nolint:musttag // the vocabulary has no tags; nobody else reads the file
		return s, nimbus.Assignment{}, fmt.Errorf("decode the attempt's state: %w", err)
	}
	var message nimbusv1.Assignment
	if err := protojson.Unmarshal(s.Assignment, &message); err != nil {
		return s, nimbus.Assignment{}, fmt.Errorf("decode the attempt's assignment: %w", err)
	}
	as := wire.ToAssignment(&message)
	if err := nimbus.CheckID(nimbus.PrefixAttempt, as.AttemptID); err != nil {
		return s, nimbus.Assignment{}, err
	}
	if s.Reserved == (nimbus.Reservation{}) { // kept by an agent that didn't note it
		s.Reserved = nimbus.Reservation{CPUs: as.Class.CPUs, MemoryMiB: as.Class.MemoryMiB}
	}
	return s, as, nil
}

func (s *state) setAssignment(a nimbus.Assignment) error {
	raw, err := protojson.Marshal(wire.Assignment(a))
	s.Assignment = raw
	return err
}

func (s *state) setStart(r *nimbusv1.StartRequest) error {
	raw, err := protojson.Marshal(r)
	s.Start = raw
	return err
}

func (s *state) start() (*nimbusv1.StartRequest, error) {
	if s.Start == nil {
		return nil, errors.New("the process was not started yet")
	}
	var r nimbusv1.StartRequest
	if err := protojson.Unmarshal(s.Start, &r); err != nil {
		return nil, fmt.Errorf("decode the start of the process: %w", err)
	}
	return &r, nil
}

func (s *state) setOutcome(o nimbus.Outcome) error {
	raw, err := protojson.Marshal(wire.Outcome(o))
	s.Outcome = raw
	return err
}

func (s *state) outcome() (nimbus.Outcome, bool) {
	var message nimbusv1.Outcome
	if s.Outcome == nil || protojson.Unmarshal(s.Outcome, &message) != nil {
		return nimbus.Outcome{}, false
	}
	return wire.ToOutcome(&message), true
}
