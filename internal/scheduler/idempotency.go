package scheduler

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/nimbus-ci/nimbus"
)

func errKeyTooLong() error {
	return nimbus.Errorf(nimbus.CodeTooLarge, "an idempotency key has at most %d bytes", MaxIdempotencyKeyBytes)
}

// sum tells submissions apart that have the same idempotency key.
func (s Submission) sum() string {
	return sumOf(s.Name, s.Class, s.Spec, s.Labels, s.Metadata, s.Priority)
}

// sumOf is the same for what is the same. Maps are written in the order of
// their keys.
func sumOf(parts ...any) string {
	b, err := json.Marshal(parts)
	if err != nil {
		panic(fmt.Sprintf("encode a submission: %v", err)) // nothing in it can't be
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// sameSubmission refuses a key that was used for something else: its caller
// would take the answer for that of its own request.
func (u *unit) sameSubmission(ctx context.Context, jobID string, j *JobRecord) error {
	first, err := u.JobRecord(ctx, jobID)
	if err != nil || first.IdempotentSum == "" || first.IdempotentSum == j.IdempotentSum {
		return err
	}
	return nimbus.Errorf(nimbus.CodeConflict, "the idempotency key was used for another request, which made %s", jobID).
		WithHint("a key names one request: send the same again, or use a new key")
}
