package agent

import (
	"context"
	"fmt"

	"github.com/nimbus-ci/nimbus/internal/executor"
)

// maxRefusedLines bounds what is told of what a job's network refused.
const maxRefusedLines = 12

// sayRefused ends the job's log with what its network refused: a job that fails
// for it shows why, and one that tried what it should not is seen to. The
// agent's log has it for the operator.
func (t *attempt) sayRefused(ctx context.Context, s executor.Sandbox) {
	fenced, ok := s.(executor.Fenced)
	if !ok {
		return
	}
	refused, err := fenced.Refused(ctx)
	if err != nil {
		t.log.WarnContext(ctx, "look what the network refused", "error", err)
	}
	if len(refused) == 0 {
		return
	}
	var told []string
	for i, r := range refused {
		if i == maxRefusedLines {
			told = append(told, fmt.Sprintf("%d other things", len(refused)-i))
			break
		}
		told = append(told, r.String())
	}
	t.log.WarnContext(ctx, "the network refused", "what", told)
	for _, what := range told {
		t.say(ctx, "network: refused "+what)
	}
}
