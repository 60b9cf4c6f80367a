package forge

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	nimbus "github.com/nimbus-ci/nimbus"
)

// Bounds of receiving.
const (
	// MaxBody is GitHub's own cap; a larger body is refused with 413.
	MaxBody = 25 << 20
	// maxInFlight is how many bytes of bodies may be in memory at once, over
	// all requests: they are read before their signature can be judged, so
	// this is what strangers can make us hold. At it: 503, GitHub's delivery
	// log shows it and the redelivery loop repeats it.
	maxInFlight = 4 * MaxBody
	// bodyTimeout is how long a body may take to arrive. GitHub gives up
	// after 10 s.
	bodyTimeout = 20 * time.Second

	maxDeliveryID = 64 // a GUID has 36
	maxEventName  = 64
)

// WebhookConfig is what NewWebhook needs.
type WebhookConfig struct {
	// Secrets returns the secrets that are valid now, more than one while one
	// is rotated. None means that every delivery is refused. Required.
	Secrets func() [][]byte
	// MayTell tells whether what is signed with these secrets may tell of an
	// installation. Default: all may of all.
	MayTell func(installation int64, secrets [][]byte) bool
	// Process commits a delivery and its effect in one transaction. ev is nil
	// for an event that Nimbus has no use for: it is recorded all the same.
	// It is called only after the signature was verified, concurrently, and
	// must not call out to anybody: GitHub waits. Required.
	Process func(ctx context.Context, d nimbus.Delivery, ev *nimbus.ForgeEvent) (nimbus.DeliveryOutcome, error)
	MaxBody int64        // default MaxBody
	Clock   nimbus.Clock // default the system's
	Log     *slog.Logger // default none
}

// webhook is the http.Handler that NewWebhook returns.
type webhook struct {
	WebhookConfig
	inFlight inFlight
}

// NewWebhook returns the handler of GitHub's deliveries.
//
//	202 {"outcome":"accepted"}   taken, its effect is committed
//	202 {"outcome":"ignored"}    recorded, without effect
//	200 {"outcome":"duplicate"}  a delivery id that was processed before
//	200 {"outcome":"pong"}       a ping
//	400 not what GitHub sends · 401 signature missing or wrong · 405 not POST
//	413 over MaxBody · 429 what Process refuses as too often · 503 try again, with Retry-After where known · 500 a fault of ours
func NewWebhook(cfg WebhookConfig) http.Handler {
	if cfg.MaxBody <= 0 {
		cfg.MaxBody = MaxBody
	}
	if cfg.Clock == nil {
		cfg.Clock = nimbus.SystemClock{}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	h := &webhook{WebhookConfig: cfg}
	h.inFlight.limit = max(maxInFlight, cfg.MaxBody)
	return h
}

// reply is the body of every answer that is no error.
type reply struct {
	Outcome nimbus.DeliveryOutcome `json:"outcome"`
}

// outcomePong answers a ping, which is not recorded.
const outcomePong nimbus.DeliveryOutcome = "pong"

// ServeHTTP answers one delivery.
func (h *webhook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		writeError(w, http.StatusMethodNotAllowed, nimbus.Errorf(nimbus.CodeInvalid, "deliveries are sent by POST"))
		return
	}
	outcome, err := h.receive(w, r)
	if err != nil {
		status := httpStatus(nimbus.ErrorCode(err))
		h.Log.WarnContext(r.Context(), "delivery refused", "status", status, "error", err)
		writeError(w, status, err)
		return
	}
	status := http.StatusAccepted
	if outcome == nimbus.DeliveryDuplicate || outcome == outcomePong {
		status = http.StatusOK
	}
	writeJSON(w, status, reply{outcome})
}

// receive reads, verifies, parses and processes a delivery, in this order:
// nothing of an unsigned body is looked at.
func (h *webhook) receive(w http.ResponseWriter, r *http.Request) (nimbus.DeliveryOutcome, error) {
	received := h.Clock.Now()
	signature := r.Header.Get("X-Hub-Signature-256")
	if signature == "" {
		return "", nimbus.Errorf(nimbus.CodeUnauthenticated, "the delivery has no X-Hub-Signature-256").
			WithHint("set the same secret in the GitHub App's webhook settings and in Nimbus")
	}
	body, release, err := h.readBody(w, r)
	defer release()
	if err != nil {
		return "", err
	}
	secrets := signers(h.Secrets(), body, signature)
	if len(secrets) == 0 {
		return "", nimbus.Errorf(nimbus.CodeUnauthenticated, "the signature matches none of the webhook secrets").
			WithHint("set the same secret in the GitHub App's webhook settings and in Nimbus")
	}
	d, in, err := delivery(r.Header, body, received)
	if err != nil {
		return "", err
	}
	if h.MayTell != nil && !h.MayTell(d.InstallationID, secrets) {
		return "", nimbus.Errorf(nimbus.CodeUnauthenticated, "the delivery tells of the installation %d, and is signed with the secret of another App", d.InstallationID).
			WithHint("each App's webhook has a secret of its own: nimbus github rotate-secret")
	}
	var ev *nimbus.ForgeEvent
	switch d.Event {
	case "ping":
		return outcomePong, nil
	case "workflow_job":
		if ev, err = in.forgeEvent(); err != nil {
			return "", err
		}
	}
	outcome, err := h.Process(r.Context(), d, ev)
	if err != nil {
		return "", fmt.Errorf("process delivery %s: %w", d.ID, err)
	}
	return outcome, nil
}

// readBody reads the whole body within its bounds. release gives its bytes
// back to the budget and must be called whatever the error.
func (h *webhook) readBody(w http.ResponseWriter, r *http.Request) (body []byte, release func(), err error) {
	tooLarge := nimbus.Errorf(nimbus.CodeTooLarge, "the body is over %d bytes", h.MaxBody)
	if r.ContentLength > h.MaxBody {
		return nil, func() {}, tooLarge
	}
	// The real clock: this is about a socket. Not every writer has deadlines
	// (tests' recorders don't); the server's own then hold.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
	in := &inFlightReader{r: http.MaxBytesReader(w, r.Body, h.MaxBody), budget: &h.inFlight}
	body, err = io.ReadAll(in)
	var over *http.MaxBytesError
	switch {
	case err == nil:
		return body, in.release, nil
	case errors.As(err, &over):
		return nil, in.release, tooLarge
	case errors.Is(err, errInFlight):
		busy := nimbus.Errorf(nimbus.CodeUnavailable, "too many deliveries at once")
		busy.RetryAfter = time.Second
		return nil, in.release, busy
	}
	return nil, in.release, nimbus.Errorf(nimbus.CodeInvalid, "read the body: %w", err)
}

// delivery takes from the headers and the body what is written to the ledger,
// and what else there is of a workflow_job event.
func delivery(header http.Header, body []byte, received time.Time) (nimbus.Delivery, *workflowJob, error) {
	sum := sha256.Sum256(body)
	d := nimbus.Delivery{
		ID:         header.Get("X-GitHub-Delivery"),
		Event:      header.Get("X-GitHub-Event"),
		ReceivedAt: received,
		BodySHA256: hex.EncodeToString(sum[:]),
	}
	if !token(d.ID, maxDeliveryID) {
		return d, nil, nimbus.Errorf(nimbus.CodeInvalid, "X-GitHub-Delivery is missing or is no delivery id")
	}
	if !token(d.Event, maxEventName) {
		return d, nil, nimbus.Errorf(nimbus.CodeInvalid, "X-GitHub-Event is missing or is no event name")
	}
	var in workflowJob
	var into any = &in
	if d.Event != "workflow_job" { // whose other fields are its own
		into = &in.envelope
	}
	if err := json.Unmarshal(body, into); err != nil {
		bad := nimbus.Errorf(nimbus.CodeInvalid, "the body is not what GitHub sends: %w", err)
		if strings.HasPrefix(header.Get("Content-Type"), "application/x-www-form-urlencoded") {
			bad = bad.WithHint("set the webhook's content type to application/json")
		}
		return d, nil, bad
	}
	d.Action, d.InstallationID = text(in.Action), in.Installation.ID
	return d, &in, nil
}

// token tells whether s is a short word of letters, digits, '-' and '_': ids
// and event names become keys and log fields.
func token(s string, most int) bool {
	return s != "" && len(s) <= most &&
		strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == ""
}

// httpStatus is the one place where codes become answers to GitHub. What it
// can't help is 5xx, so that its delivery log shows a failure to redeliver.
func httpStatus(code nimbus.Code) int {
	switch code {
	case nimbus.CodeInvalid:
		return http.StatusBadRequest
	case nimbus.CodeUnauthenticated:
		return http.StatusUnauthorized
	case nimbus.CodeTooLarge:
		return http.StatusRequestEntityTooLarge
	case nimbus.CodeRateLimited:
		return http.StatusTooManyRequests
	case nimbus.CodeUnavailable, nimbus.CodeCancelled:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// writeError answers with code, message and hint; a fault of ours is logged,
// not told.
func writeError(w http.ResponseWriter, status int, err error) {
	out := struct {
		Code    nimbus.Code `json:"code"`
		Message string      `json:"message"`
		Hint    string      `json:"hint,omitempty"`
	}{Code: nimbus.CodeInternal, Message: "internal error"}
	var e *nimbus.Error
	if status != http.StatusInternalServerError && errors.As(err, &e) {
		out.Code, out.Message, out.Hint = e.Code, e.Message, e.Hint
		if e.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(e.RetryAfter.Seconds()+0.999)))
		}
	}
	writeJSON(w, status, out)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the other side is gone: nothing to tell it
}
