package agent

import (
	"maps"
	"testing"

	"github.com/nimbus-ci/nimbus"
)

// TestRegistryEnv: a job knows where the registry is, as names of images have it, and
// has its own token for it; not where its host leads nowhere.
func TestRegistryEnv(t *testing.T) {
	t.Parallel()
	env := func(token string, url func(string) string) map[string]string {
		g := &guest{t: &attempt{agent: &Agent{cfg: Config{CacheURL: url}}}}
		g.t.assign.JobToken, g.t.assign.Class.Executor = token, nimbus.ExecutorMicroVM
		return g.registryEnv()
	}
	door := func(executor string) string {
		if executor == nimbus.ExecutorMicroVM {
			return "http://gateway.nimbus.internal:9180/"
		}
		return ""
	}
	if got := env("nbs_job_x", door); !maps.Equal(got, map[string]string{"NIMBUS_REGISTRY": "gateway.nimbus.internal:9180", "NIMBUS_REGISTRY_TOKEN": "nbs_job_x"}) {
		t.Errorf("a job has %v", got)
	}
	for what, got := range map[string]map[string]string{"without a token": env("", door), "without a door": env("x", nil), "not led there": env("x", func(string) string { return "" })} {
		if len(got) != 0 {
			t.Errorf("%s: %v", what, got)
		}
	}
}
