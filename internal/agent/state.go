package agent

import (
	"crypto/cipher"
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
	// Begun says that there is a Start.
	Begun   bool      `json:"begun,omitempty"`
	Started time.Time `json:"started"`
	// CacheTrust is the authority of the door to GitHub's cache that the sandbox was
	// given; "" where it has no such door.
	CacheTrust string `json:"cacheTrust,omitempty"`
	// Outcome is set once the process has ended.
	Outcome json.RawMessage `json:"outcome,omitempty"`
	// Sealed is the part that holds secrets, see sealer.
	Sealed []byte `json:"sealed,omitempty"`

	// What was kept open to read by agents that sealed nothing has the same names.
	confidential
}

// confidential is what of an attempt's state is not to be read on a disk.
type confidential struct {
	// Start is the request that started the process, written before it is
	// sent: with it an attempt can be taken over, without it not.
	Start json.RawMessage `json:"start,omitempty"`
	// Secrets must not be seen in the log.
	Secrets []string `json:"secrets,omitempty"`
	// JobToken and CacheToken are the assignment's.
	JobToken   string `json:"jobToken,omitempty"`
	CacheToken string `json:"cacheToken,omitempty"`
}

const stateFile = "attempt.json"

// save writes the state to disk.
func (t *attempt) save() error {
	kept := t.state
	kept.Begun = kept.Start != nil
	plain, err := json.Marshal(kept.confidential)
	if err != nil {
		return fmt.Errorf("encode the attempt's state: %w", err)
	}
	kept.Sealed, kept.confidential = t.seal.Seal(nil, nil, plain, nil), confidential{}
	if err := writeJSON(filepath.Join(t.dir, stateFile), kept); err != nil {
		return fmt.Errorf("keep the attempt's state: %w", err)
	}
	return nil
}

// errKeysLost is told of what was sealed before the host's memory was lost.
var errKeysLost = errors.New("its host has lost the key by which the attempt's state was sealed: it was started anew, or its memory was cleared")

// unseal reads what was sealed.
func (s *state) unseal(with cipher.AEAD) error {
	if s.Sealed == nil {
		return nil
	}
	plain, err := with.Open(nil, nil, s.Sealed, nil)
	if err != nil {
		return errKeysLost
	}
	if err := json.Unmarshal(plain, &s.confidential); err != nil {
		return fmt.Errorf("decode the attempt's state: %w", err)
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
	s.JobToken, s.CacheToken = a.JobToken, a.CacheToken
	a.JobToken, a.CacheToken = "", ""
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
