package apidesc

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestExamplesMatch: GitHub's own examples pass GitHub's own schemas, but for
// the one that predates fields that have become required.
func TestExamplesMatch(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../testdata/webhooks/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, path := range files {
		body, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		event, action, _ := strings.Cut(strings.TrimSuffix(filepath.Base(path), ".json"), ".")
		err = CheckWebhook(event, strings.TrimSuffix(action, "-2"), body)
		if old := event == "check_run"; (err != nil) != old {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestWrongBodiesAreFound(t *testing.T) {
	t.Parallel()
	body, err := os.ReadFile("../../testdata/webhooks/workflow_job.queued.json")
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(job map[string]any){
		"missing field": func(job map[string]any) { delete(job, "run_id") },
		"wrong type":    func(job map[string]any) { job["labels"] = "nimbus" },
		"wrong word":    func(job map[string]any) { job["status"] = "levitating" },
	} {
		var event map[string]any
		if err := json.Unmarshal(body, &event); err != nil {
			t.Fatal(err)
		}
		job, _ := event["workflow_job"].(map[string]any)
		spoil(job)
		spoiled, err := json.Marshal(event)
		if err != nil {
			t.Fatal(err)
		}
		if err := CheckWebhook("workflow_job", "queued", spoiled); err == nil {
			t.Errorf("%s: not found", name)
		}
	}
	if err := CheckWebhook("workflow_job", "exploded", body); err == nil {
		t.Error("an action that is not described passed")
	}
}
