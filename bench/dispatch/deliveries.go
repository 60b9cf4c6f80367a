package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// payloadFile is a delivery of GitHub's own documentation, with all that a real
// one carries.
const payloadFile = "internal/forge/testdata/webhooks/workflow_job.queued.json"

// Stand-ins in the templates for what differs from job to job.
const (
	standInJob    = 987654321098765
	standInRunner = "stand-in-for-the-runner"
	standInRepo   = "stand-in-for-the-repo"
	repos         = 20 // between which the jobs are spread
)

// deliveries makes and signs webhooks as GitHub would.
type deliveries struct {
	url, base string
	raw       []byte // the payload that they are made of
	secret    []byte
	client    *http.Client
	queued    []byte
	completed []byte

	mu   sync.Mutex
	took []time.Duration // until each was answered
}

func newDeliveries(url string, secret []byte) (*deliveries, error) {
	raw, err := os.ReadFile(payloadFile)
	if err != nil {
		return nil, fmt.Errorf("read a delivery (run from the repository's root): %w", err)
	}
	d := &deliveries{raw: raw, url: url + "/webhooks/github", base: strconv.FormatInt(time.Now().UnixNano(), 36), secret: secret,
		client: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 256}}}
	return d, d.renew()
}

// renew makes the templates of now: an event that is ten minutes old is not
// believed before GitHub was asked.
func (d *deliveries) renew() (err error) {
	if d.queued, err = template(d.raw, "queued", nil); err != nil {
		return err
	}
	d.completed, err = template(d.raw, "completed", map[string]any{
		"conclusion": "success", "runner_id": standInJob, "runner_name": standInRunner,
		"completed_at": time.Now().UTC().Format(time.RFC3339),
	})
	return err
}

// template is a delivery with stand-ins.
func template(raw []byte, status string, set map[string]any) ([]byte, error) {
	var payload map[string]any
	if err := json.Unmarshal(raw, &payload); err != nil {
		return nil, fmt.Errorf("decode a delivery: %w", err)
	}
	job, _ := payload["workflow_job"].(map[string]any)
	repo, _ := payload["repository"].(map[string]any)
	if job == nil || repo == nil {
		return nil, fmt.Errorf("%s is no delivery about a job", payloadFile)
	}
	payload["action"], payload["installation"] = status, map[string]any{"id": 1}
	now := time.Now().UTC().Format(time.RFC3339)
	job["name"] = jobName(standInJob) // by which a host tells it
	job["id"], job["status"], job["labels"], job["created_at"], job["started_at"] = standInJob, status, []string{"nimbus"}, now, now
	repo["name"], repo["full_name"] = standInRepo, "octo-org/"+standInRepo
	if owner, ok := repo["owner"].(map[string]any); ok {
		owner["login"] = "octo-org"
	}
	for key, value := range set {
		job[key] = value
	}
	return json.Marshal(payload)
}

// jobName is what a job is called, and jobNumber the number in it.
func jobName(n int64) string { return fmt.Sprintf("job-%d", n) }

func jobNumber(name string) (int64, error) {
	return strconv.ParseInt(strings.TrimPrefix(name, "job-"), 10, 64)
}

// queue tells that a job waits; complete that a runner has done it.
func (d *deliveries) queue(ctx context.Context, n int64) error {
	return d.send(ctx, d.queued, n, "q", "")
}

func (d *deliveries) complete(ctx context.Context, n int64, runner string) error {
	return d.send(ctx, d.completed, n, "c", runner)
}

func (d *deliveries) send(ctx context.Context, template []byte, n int64, kind, runner string) error {
	body := bytes.ReplaceAll(template, strconv.AppendInt(nil, standInJob, 10), strconv.AppendInt(nil, n, 10))
	body = bytes.ReplaceAll(body, []byte(standInRepo), fmt.Appendf(nil, "repo-%d", n%repos))
	body = bytes.ReplaceAll(body, []byte(standInRunner), []byte(runner))
	mac := hmac.New(sha256.New, d.secret)
	mac.Write(body)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, d.url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make a delivery: %w", err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Github-Event", "workflow_job")
	r.Header.Set("X-Github-Delivery", fmt.Sprintf("%s-%s-%d", d.base, kind, n))
	r.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	began := time.Now()
	answer, err := d.client.Do(r)
	if err != nil {
		return fmt.Errorf("deliver: %w", err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
	if err != nil || answer.StatusCode != http.StatusAccepted {
		return fmt.Errorf("a delivery was answered %s %s: %w", answer.Status, text, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.took = append(d.took, time.Since(began))
	return nil
}
