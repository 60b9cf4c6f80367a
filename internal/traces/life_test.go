package traces

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
)

// TestLabelsAreOnTheJobsSpan: those that keep something with the job, as they are
// read from the labels of one.
func TestLabelsAreOnTheJobsSpan(t *testing.T) {
	t.Parallel()
	r, err := nimbus.ParseLabels([]string{"nimbus", "param:Model=Llama-3=x", "meta:nightly"})
	if err != nil {
		t.Fatal(err)
	}
	j := nimbus.Job{ID: nimbus.NewID(nimbus.PrefixJob, time.Now()), Metadata: r.Metadata, Timeline: nimbus.Timeline{ReceivedAt: time.Now()}}
	got := maps.Clone(Life(&j)[0].Attributes)
	maps.DeleteFunc(got, func(key, _ string) bool {
		return !strings.HasPrefix(key, "nimbus.param.") && !strings.HasPrefix(key, "nimbus.meta.")
	})
	if diff := cmp.Diff(map[string]string{"nimbus.param.model": "Llama-3=x", "nimbus.meta.nightly": "true"}, got); diff != "" {
		t.Error(diff)
	}
}
