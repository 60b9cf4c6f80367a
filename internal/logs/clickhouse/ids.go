package clickhouse

import (
	"strings"

	"github.com/google/uuid"

	"github.com/nimbus-ci/nimbus"
)

// kinds are what a log is of, by the prefix of its id; their numbers are stored.
var kinds = map[string]int8{nimbus.PrefixAttempt: 1, nimbus.PrefixShell: 2}

// logID is a log's key as the tables have it.
type logID struct {
	org, log uuid.UUID
	kind     int8
	started  int64 // milliseconds
}

// maxStarted is the latest time of an id that the tables can hold: what is later was
// made up, and only has to be the same each time.
const maxStarted = 4_102_444_800_000 // 2100

// identify reads a key. Codes: invalid.
func identify(key nimbus.LogKey) (id logID, err error) {
	if id.org, err = orgUUID(key.OrgID); err != nil {
		return id, err
	}
	prefix, _, _ := strings.Cut(key.AttemptID, "_")
	if id.kind = kinds[prefix]; id.kind == 0 {
		return id, nimbus.Errorf(nimbus.CodeInvalid, "%.80q has no log", key.AttemptID)
	}
	b, err := nimbus.IDBytes(prefix, key.AttemptID)
	if err != nil {
		return id, err
	}
	at, _ := nimbus.IDTime(prefix, key.AttemptID)
	id.log, id.started = uuid.UUID(b), min(at.UnixMilli(), maxStarted)
	return id, nil
}

func orgUUID(orgID string) (uuid.UUID, error) {
	b, err := nimbus.IDBytes(nimbus.PrefixOrg, orgID)
	return uuid.UUID(b), err
}

func attemptOf(id uuid.UUID) string { return nimbus.IDOf(nimbus.PrefixAttempt, id) }

// streams are numbered as the tables have them, for ever.
var streams = []nimbus.Stream{1: nimbus.StreamStdout, 2: nimbus.StreamStderr, 3: nimbus.StreamSystem, 4: nimbus.StreamStep}
