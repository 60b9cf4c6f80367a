package github_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/forge"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// TestEveryExampleIsTaken sends every example of every event that GitHub's own
// collections have, of GitHub.com and of Enterprise Server: each is taken or
// ignored, and only those of queued jobs are demand.
func TestEveryExampleIsTaken(t *testing.T) {
	t.Parallel()
	examples, err := filepath.Abs("../../web/node_modules/@octokit/webhooks-examples")
	if err != nil {
		t.Fatal(err)
	}
	testenv.Require(t, examples) // `make build` brings it
	collections, err := filepath.Glob(filepath.Join(examples, "*", "index.json"))
	if err != nil || len(collections) < 2 {
		t.Fatalf("%d collections, %v", len(collections), err)
	}
	secret := []byte("of the examples")
	events, sent, demand := map[string]bool{}, 0, 0
	hook := forge.NewWebhook(forge.WebhookConfig{
		Secrets: func() [][]byte { return [][]byte{secret} },
		Process: func(_ context.Context, d nimbus.Delivery, ev *nimbus.ForgeEvent) (nimbus.DeliveryOutcome, error) {
			if (ev != nil) != (d.Event == "workflow_job") {
				t.Errorf("%s %s became %+v", d.Event, d.Action, ev)
			}
			if ev != nil && ev.Demand {
				demand++
			}
			return nimbus.DeliveryAccepted, nil
		},
	})
	for _, path := range collections {
		for _, event := range readExamples(t, path) {
			events[event.Name] = true
			for _, body := range event.Examples {
				sent++
				w := httptest.NewRecorder()
				r := httptest.NewRequest(http.MethodPost, "/webhooks/github", bytes.NewReader(body))
				r.Header.Set("X-Github-Event", event.Name)
				r.Header.Set("X-Github-Delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958")
				r.Header.Set("X-Hub-Signature-256", forge.Sign(secret, body))
				hook.ServeHTTP(w, r)
				if w.Code/100 != 2 {
					t.Errorf("%s of %s: %d %s\n%.300s", event.Name, filepath.Base(filepath.Dir(path)), w.Code, w.Body, body)
				}
			}
		}
	}
	if len(events) < 55 || sent < 500 || demand == 0 {
		t.Errorf("%d events, %d examples, %d of them demand", len(events), sent, demand)
	}
}

type exampleEvent struct {
	Name     string            `json:"name"`
	Examples []json.RawMessage `json:"examples"`
}

func readExamples(t *testing.T, path string) (events []exampleEvent) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &events); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return events
}
