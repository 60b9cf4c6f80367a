package qemu

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// features are what a job can need of a processor, by QEMU's names of it.
var features = map[string]string{"avx2": "avx2", "avx512f": "avx512", "amx-tile": "amx"}

// processorTimeout bounds the question for a processor's features.
const processorTimeout = 20 * time.Second

// processorOf asks QEMU which of these a guest's processor has: one that is
// emulated has some that the machine's own has not, and lacks others.
func processorOf(ctx context.Context, accelerator, model string) (nimbus.Capabilities, error) {
	ctx, cancel := context.WithTimeout(ctx, processorTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "-M", "none", "-accel", accelerator, "-nodefaults", "-no-user-config", "-nographic", "-S", "-qmp", "stdio")
	cmd.Stdin = strings.NewReader(`{"execute":"qmp_capabilities"}
{"execute":"query-cpu-model-expansion","arguments":{"type":"full","model":{"name":"` + model + `"}}}
{"execute":"quit"}
`)
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("ask QEMU for its processor: %w", err)
	}
	for line := range bytes.Lines(out) {
		var answer struct {
			Return struct {
				Model struct {
					Props map[string]any `json:"props"`
				} `json:"model"`
			} `json:"return"`
		}
		if json.Unmarshal(line, &answer) != nil || len(answer.Return.Model.Props) == 0 {
			continue // another answer
		}
		var has []string
		for feature, word := range features {
			if answer.Return.Model.Props[feature] == true {
				has = append(has, word)
			}
		}
		return nimbus.CapabilitiesOf(has...)
	}
	return "", fmt.Errorf("ask QEMU for its processor: it says nothing of %q", model)
}
