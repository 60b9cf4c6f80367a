package firecrackertest

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"sync"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/firecracker/firecrackertest/apidesc"
)

// Coverage counts which calls of the description were made, and how they were
// answered.
type Coverage struct {
	mu    sync.Mutex
	calls map[string]*CallCoverage
}

// CallCoverage is what is known of one operation.
type CallCoverage struct {
	Operation string      `json:"operation"`
	Call      string      `json:"call"`
	Answers   map[int]int `json:"answers"` // status: how often
	// Refusals are the distinct words with which it was refused.
	Refusals []string `json:"refusals,omitempty"`
}

// Report sums a Coverage up.
type Report struct {
	Target string `json:"target"`
	// Described are operations of the description, Called those of them that
	// were made, Succeeded those that worked at least once.
	Described int `json:"operations_described"`
	Called    int `json:"operations_called"`
	Succeeded int `json:"operations_succeeded"`
	// ErrorsDescribed are error answers that the description has by number (not
	// its "all else is an internal error"), ErrorsSeen those of them that came.
	ErrorsDescribed int `json:"error_answers_described"`
	ErrorsSeen      int `json:"error_answers_seen"`
	// Refusals are distinct pairs of an operation and words.
	Refusals int             `json:"distinct_refusals"`
	Requests int             `json:"requests"`
	Calls    []*CallCoverage `json:"calls"`
}

// add notes an answer.
func (c *Coverage) add(op *apidesc.Operation, status int, fault string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls == nil {
		c.calls = map[string]*CallCoverage{}
	}
	call := c.calls[op.ID]
	if call == nil {
		call = &CallCoverage{Operation: op.ID, Call: op.Method + " " + op.Path, Answers: map[int]int{}}
		c.calls[op.ID] = call
	}
	call.Answers[status]++
	if fault != "" && !slices.Contains(call.Refusals, fault) {
		call.Refusals = append(call.Refusals, fault)
	}
}

// Report sums up.
func (c *Coverage) Report(target string) (Report, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := Report{Target: target}
	all, err := apidesc.Operations()
	if err != nil {
		return r, err
	}
	for _, op := range all {
		r.Described++
		r.ErrorsDescribed += len(op.Refusals)
		call := c.calls[op.ID]
		if call == nil {
			continue
		}
		r.Called++
		r.Refusals += len(call.Refusals)
		succeeded := false
		for status, n := range call.Answers {
			r.Requests += n
			succeeded = succeeded || status < http.StatusBadRequest
			if slices.Contains(op.Refusals, status) {
				r.ErrorsSeen++
			}
		}
		if succeeded {
			r.Succeeded++
		}
	}
	r.Calls = slices.SortedFunc(maps.Values(c.calls), func(a, b *CallCoverage) int {
		return slices.Index(names(all), a.Operation) - slices.Index(names(all), b.Operation)
	})
	return r, nil
}

func names(all []*apidesc.Operation) []string {
	out := make([]string, 0, len(all))
	for _, op := range all {
		out = append(out, op.ID)
	}
	return out
}

// JSON is the report for people and programs.
func (r Report) JSON() string {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err.Error()
	}
	return string(raw)
}
