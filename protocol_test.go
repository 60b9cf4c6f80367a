package nimbus

import (
	"testing"
)

func TestAgentsMayBeOneVersionAway(t *testing.T) {
	t.Parallel()
	for _, try := range []struct {
		agent, server int
		want          Code
	}{
		{2, 2, ""}, {1, 2, ""}, {3, 2, ""}, {0, 2, ""}, // one that tells none speaks 1
		{4, 2, CodeUnsupported}, {0, 3, CodeUnsupported}, {1, 3, CodeUnsupported}, {-1, 2, CodeUnsupported},
	} {
		err := CheckProtocol(try.agent, try.server)
		if ErrorCode(err) != try.want || err != nil && ErrorHint(err) == "" {
			t.Errorf("agent %d, server %d: %v (%s)", try.agent, try.server, err, ErrorHint(err))
		}
	}
	if err := CheckProtocol(AgentProtocol, AgentProtocol); err != nil {
		t.Error(err)
	}
}
