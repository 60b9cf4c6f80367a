package githubtest

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/nimbus-ci/nimbus/internal/forge/githubtest/apidesc"
)

// deliveryTimeout is GitHub's: it waits no longer for an answer.
const deliveryTimeout = 10 * time.Second

// deliveriesKept is how long GitHub remembers them.
const deliveriesKept = 3 * 24 * time.Hour

// delivery is one sending of a webhook.
type delivery struct {
	id            int64
	guid          string // the same for all sendings of one event
	event, action string
	jobID, repoID int64
	body          []byte
	at            time.Time
	due           time.Time // a late one's
	redelivery    bool
	duration      time.Duration
	status        string // "OK", or why not
	statusCode    int
}

// Delivery is a sending as tests see it.
type Delivery struct {
	ID         int64
	GUID       string
	Event      string
	Action     string
	JobID      int64
	Redelivery bool
	StatusCode int // 0 when there was no answer yet, or none came
	Body       []byte
}

// Plan is what becomes of a new delivery.
type Plan struct {
	Copies int           // how often it is sent: 0 drops it, 2 doubles it
	Hold   bool          // keep it back until ReleaseHeld
	Delay  time.Duration // keep it back for so long by the double's clock
	Fail   bool          // it is listed, as one that did not get through
}

// PlanDeliveries makes plan decide about every new event; nil sends each once,
// in order. plan is called with the double locked: it must not call it.
func (s *Server) PlanDeliveries(plan func(Delivery) Plan) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.plan = plan
}

// ReleaseHeld sends what was kept back, in the order that sort makes of it
// (nil: as it was).
func (s *Server) ReleaseHeld(sort func(a, b Delivery) int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sort != nil {
		slices.SortStableFunc(s.held, func(a, b *delivery) int { return sort(a.public(), b.public()) })
	}
	for _, d := range s.held {
		s.post(d)
	}
	s.held = nil
}

// Deliveries returns all sendings that are remembered, oldest first.
func (s *Server) Deliveries() []Delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Delivery, len(s.deliveries))
	for i, d := range s.deliveries {
		out[i] = d.public()
	}
	return out
}

// Redeliver sends a delivery again, as the button on GitHub's page does.
func (s *Server) Redeliver(id int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.deliveries, func(d *delivery) bool { return d.id == id })
	if i < 0 {
		return fmt.Errorf("no delivery %d", id)
	}
	s.post(s.deliveries[i].again(s.nextID()))
	return nil
}

// Ping sends the event with which GitHub tries a new webhook.
func (s *Server) Ping() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.enqueue(&delivery{event: "ping"}, object{
		"zen": "Keep it logically awesome.", "hook_id": 1,
		"hook": object{
			"type": "App", "id": 1, "name": "web", "active": true, "app_id": s.cfg.AppID, "events": s.events,
			"config":     object{"content_type": "json", "insecure_ssl": "0", "secret": "********", "url": s.webhookURL},
			"created_at": stamp(s.now()), "updated_at": stamp(s.now()), "deliveries_url": s.url + "/app/hook/deliveries",
		},
	})
}

// Flush waits until everything that is to be sent was sent.
func (s *Server) Flush(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.await(ctx, s.flushed)
}

func (s *Server) flushed() bool { return len(s.outbox) == 0 && !s.sending }

// announce sends a workflow_job event about the job as it is now. s.mu is held.
func (s *Server) announce(j *job, action string) {
	j.run.updatedAt = s.now()
	s.tellScaleSet(j)
	s.enqueue(&delivery{event: "workflow_job", action: action, jobID: j.id, repoID: j.run.repo.id}, s.jobEvent(j, action))
}

// enqueue checks a new event and sends it as planned, if the App is to be sent
// it. s.mu is held.
func (s *Server) enqueue(d *delivery, body object) {
	if d.event != "ping" && !slices.Contains(s.events, d.event) {
		return
	}
	var err error
	if d.body, err = json.Marshal(body); err != nil {
		s.violate(fmt.Errorf("encode %s: %w", d.event, err))
		return
	}
	if err := apidesc.CheckWebhook(d.event, d.action, d.body); err != nil {
		s.violate(err)
	}
	d.id, d.guid = s.nextID(), newGUID()
	plan := Plan{Copies: 1}
	if s.plan != nil {
		plan = s.plan(d.public())
	}
	for i := range plan.Copies {
		sending := d
		if i > 0 {
			sending = d.again(s.nextID())
		}
		switch {
		case plan.Fail:
			sending.status, sending.statusCode = "failed to connect to host", http.StatusBadGateway
			s.list(sending)
		case plan.Hold:
			s.held = append(s.held, sending)
		case plan.Delay > 0:
			sending.due = s.now().Add(plan.Delay)
			s.late = append(s.late, sending)
		default:
			s.post(sending)
		}
	}
}

// list remembers a sending. s.mu is held.
func (s *Server) list(d *delivery) {
	d.at = s.now()
	if n := len(s.deliveries); n > 0 && s.deliveries[n-1].id > d.id {
		d.id = s.nextID() // it was kept back: ids are in the order of sending
	}
	s.deliveries = append(s.deliveries, d)
	s.forgetDeliveries()
}

// forgetDeliveries drops those that GitHub would not know any more.
func (s *Server) forgetDeliveries() {
	old := max(len(s.deliveries)-maxDeliveries, 0)
	for old < len(s.deliveries) && s.now().Sub(s.deliveries[old].at) > deliveriesKept {
		old++
	}
	s.deliveries = slices.Delete(s.deliveries, 0, old)
}

// postLate sends what is late enough by now, the earliest first. s.mu is held.
func (s *Server) postLate() {
	slices.SortStableFunc(s.late, func(a, b *delivery) int { return a.due.Compare(b.due) })
	for len(s.late) > 0 && !s.now().Before(s.late[0].due) {
		s.post(s.late[0])
		s.late = s.late[1:]
	}
}

// post puts a sending into the outbox and the list. s.mu is held.
func (s *Server) post(d *delivery) {
	s.list(d)
	if len(s.outbox) >= maxDeliveries {
		d.status = "queue full"
		return
	}
	s.outbox = append(s.outbox, d)
	s.broadcast()
}

// deliverLoop sends the outbox, one after the other. GitHub promises no order;
// a test that wants another one plans it.
func (s *Server) deliverLoop(ctx context.Context) {
	client := &http.Client{Timeout: deliveryTimeout, Transport: &http.Transport{IdleConnTimeout: time.Minute}}
	defer client.CloseIdleConnections()
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if err := s.await(ctx, func() bool { return len(s.outbox) > 0 }); err != nil {
			return
		}
		d, url := s.outbox[0], s.webhookURL
		s.outbox, s.sending = s.outbox[1:], true
		s.mu.Unlock()
		begun := time.Now() // a duration, not a point in time
		code, status := s.send(ctx, client, url, d)
		s.mu.Lock()
		d.statusCode, d.status, d.duration = code, status, time.Since(begun)
		s.sending = false
		s.broadcast()
	}
}

// send makes the request that GitHub makes.
func (s *Server) send(ctx context.Context, client *http.Client, url string, d *delivery) (code int, status string) {
	if url == "" {
		return 0, "no webhook URL"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(d.body))
	if err != nil {
		return 0, err.Error()
	}
	mac := hmac.New(sha256.New, s.WebhookSecret())
	mac.Write(d.body)
	for key, value := range map[string]string{
		"Content-Type":                           "application/json",
		"User-Agent":                             "GitHub-Hookshot/githubtest",
		"X-GitHub-Delivery":                      d.guid,
		"X-GitHub-Event":                         d.event,
		"X-GitHub-Hook-ID":                       "1",
		"X-GitHub-Hook-Installation-Target-ID":   strconv.FormatInt(s.cfg.AppID, 10),
		"X-GitHub-Hook-Installation-Target-Type": "integration",
		"X-Hub-Signature-256":                    "sha256=" + hex.EncodeToString(mac.Sum(nil)),
	} {
		req.Header.Set(key, value)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "failed to connect to host"
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection is used again
	if resp.StatusCode/100 == 2 {
		return resp.StatusCode, "OK"
	}
	return resp.StatusCode, fmt.Sprintf("Invalid HTTP Response: %d", resp.StatusCode)
}

// again is another sending of the same event.
func (d *delivery) again(id int64) *delivery {
	return &delivery{
		id: id, guid: d.guid, event: d.event, action: d.action, jobID: d.jobID, repoID: d.repoID, body: d.body,
		redelivery: true,
	}
}

func (d *delivery) public() Delivery {
	return Delivery{d.id, d.guid, d.event, d.action, d.jobID, d.redelivery, d.statusCode, d.body}
}

// json is the sending as the API lists it.
func (d *delivery) json() object {
	status := d.status
	if status == "" {
		status = "pending"
	}
	return object{
		"id": d.id, "guid": d.guid, "delivered_at": stamp(d.at), "redelivery": d.redelivery, "duration": d.duration.Seconds(),
		"status": status, "status_code": d.statusCode, "event": d.event, "action": orNull(d.action),
		"installation_id": nil, "repository_id": orNull(d.repoID), "throttled_at": nil,
	}
}

// newGUID is a random UUID.
func newGUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: it ends the program instead
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
