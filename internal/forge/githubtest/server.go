package githubtest

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	nimbus "github.com/nimbus-ci/nimbus"
)

// Times and bounds of the double. Those that GitHub has are GitHub's.
const (
	tokenLife     = time.Hour        // of an installation's access token
	pollTime      = 50 * time.Second // an empty poll of a runner is answered after that
	assignTimeout = 30 * time.Second // a job that was assigned and not acquired is given to another runner
	cancelTimeout = 5 * time.Minute  // a cancelled job that its runner does not end is ended without it
	sweepEvery    = 250 * time.Millisecond

	maxRequestBody = 1 << 20
	maxLogBytes    = 16 << 20 // of one job; what comes after is dropped
	maxLogRequest  = 1 << 20
	maxViolations  = 1000  // later ones are only counted
	maxDeliveries  = 10000 // the oldest are forgotten, as GitHub forgets them after 3 days
)

// Config is what Start needs; the zero value is good for tests.
type Config struct {
	Addr           string          // to listen on, default a free port of 127.0.0.1
	AppID          int64           // default 1001
	InstallationID int64           // default 2002
	Key            *rsa.PrivateKey // the App's, default a new one
	WebhookSecret  []byte          // default random
	// RunnerURL is the address of the double as runners reach it, when that is
	// another than URL.
	RunnerURL string
	// ResultsURL is what runners are told of GitHub's results service; "" for
	// nothing. The double itself has none.
	ResultsURL string
	// JobLease is how long a job's runner may be silent until the job has
	// failed; default GitHub's 10 minutes.
	JobLease time.Duration
	// IdleLimit is how long a runner may be online without a job until it is
	// removed; default 5 minutes, as was seen at GitHub.
	IdleLimit time.Duration
	Limits    Limits       // of calls; default none that is ever reached
	Clock     nimbus.Clock // default the system's. JWTs are judged by it too
	Log       *slog.Logger // default none
}

// Server is a running double. Its methods are safe for concurrent use.
type Server struct {
	cfg  Config
	url  string
	http *http.Server
	stop context.CancelFunc
	done sync.WaitGroup

	mu            sync.Mutex
	changed       chan struct{} // closed and made anew at each change
	lastID        int64
	suspended     bool
	webhookURL    string
	manifests     map[string]manifest // Apps that are being made, by code
	checks        map[int64]*CheckRun
	granted       map[string]string    // permissions of the installation
	tokens        map[string]time.Time // access token -> end of its life
	repos         map[string]*repository
	runners       map[int64]*runner
	runs          map[int64]*run
	jobs          map[int64]*job
	deliveries    []*delivery
	outbox        []*delivery // not sent yet, in order
	held          []*delivery // kept back by a plan
	late          []*delivery // kept back by a plan until their time
	sending       bool
	plan          func(Delivery) Plan
	refusals      []*Refusal
	planCall      func(operation string) *Refusal
	usage         usage
	events        []string // that it is subscribed to
	scaleSets     map[int64]*scaleSet
	releases      []nimbus.RunnerRelease // of GitHub's runner, newest first
	registers     map[string]string      // registration token -> organisation
	serviceTokens map[string]string      // of the Actions service -> organisation
	violations    []string
	violationsCut int
	calls         map[string]int // by operation id
}

// Start starts a double that listens until Close.
func Start(cfg Config) (*Server, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	s := &Server{
		cfg:     cfg,
		changed: make(chan struct{}),
		lastID:  30_000_000_000, // beyond 32 bits, as GitHub's are
		tokens:  map[string]time.Time{},
		repos:   map[string]*repository{},
		runners: map[int64]*runner{},
		runs:    map[int64]*run{},
		jobs:    map[int64]*job{},
		calls:   map[string]int{},
		usage:   usage{Usage: Usage{Over: map[string]int{}}, primary: map[string]*quota{}, sliding: map[string][]time.Time{}},

		scaleSets: map[int64]*scaleSet{},
		registers: map[string]string{}, serviceTokens: map[string]string{},
		manifests: map[string]manifest{},
		checks:    map[int64]*CheckRun{},
		granted:   permissions(),
		events:    []string{"workflow_job"},
	}
	handler, err := s.handler()
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("start the double of GitHub: %w", err)
	}
	s.url = "http://" + listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	s.http = &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(cfg.Log.Handler(), slog.LevelWarn),
	}
	s.done.Go(func() {
		if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			cfg.Log.Error("the double of GitHub stopped", "error", err)
		}
	})
	s.done.Go(func() { s.sweepLoop(ctx) })
	s.done.Go(func() { s.deliverLoop(ctx) })
	return s, nil
}

func (c *Config) setDefaults() error {
	if c.Addr == "" {
		c.Addr = "127.0.0.1:0"
	}
	if c.AppID == 0 {
		c.AppID = 1001
	}
	if c.InstallationID == 0 {
		c.InstallationID = 2002
	}
	if len(c.WebhookSecret) == 0 {
		c.WebhookSecret = []byte(rand.Text())
	}
	if c.JobLease <= 0 {
		c.JobLease = 10 * time.Minute
	}
	if c.IdleLimit <= 0 {
		c.IdleLimit = 5 * time.Minute
	}
	if c.Clock == nil {
		c.Clock = nimbus.SystemClock{}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Key == nil {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return fmt.Errorf("make the App's key: %w", err)
		}
		c.Key = key
	}
	return nil
}

// Close stops listening, delivering and sweeping, and waits for all of it.
func (s *Server) Close() {
	s.stop()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if s.http.Shutdown(ctx) != nil {
		s.http.Close()
	}
	s.done.Wait()
}

// URL is the base address of the API, without a slash at its end.
func (s *Server) URL() string { return s.url }

// AppID is the App's id.
func (s *Server) AppID() int64 { return s.cfg.AppID }

// PrivateKey is the App's key in PEM.
func (s *Server) PrivateKey() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(s.cfg.Key)})
}

// WebhookSecret is what deliveries are signed with.
func (s *Server) WebhookSecret() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cfg.WebhookSecret
}

// SetWebhook says where deliveries go. Until then, they fail.
func (s *Server) SetWebhook(url string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.webhookURL = url
}

// Violations are all requests, answers and deliveries that did not fit
// GitHub's descriptions, and calls of what the double does not have. Tests
// assert that there are none.
func (s *Server) Violations() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := append([]string(nil), s.violations...)
	if s.violationsCut > 0 {
		out = append(out, fmt.Sprintf("and %d more", s.violationsCut))
	}
	return out
}

// violate records a violation. s.mu is held.
func (s *Server) violate(err error) {
	s.cfg.Log.Warn("GitHub's description was violated", "error", err)
	if len(s.violations) >= maxViolations {
		s.violationsCut++
		return
	}
	s.violations = append(s.violations, err.Error())
}

// Calls is how often an operation of the API was called, by its id in the
// description ("actions/get-job-for-workflow-run").
func (s *Server) Calls(operation string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[operation]
}

// nextID gives ids that never come twice. s.mu is held.
func (s *Server) nextID() int64 {
	s.lastID++
	return s.lastID
}

// broadcast wakes everybody who waits. s.mu is held.
func (s *Server) broadcast() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// await waits until ready says so, with s.mu held both during the calls of
// ready and on return. It returns ctx's error when that ends first.
func (s *Server) await(ctx context.Context, ready func() bool) error {
	for !ready() {
		changed := s.changed
		s.mu.Unlock()
		var err error
		select {
		case <-changed:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		s.mu.Lock()
		if err != nil {
			return err
		}
	}
	return nil
}

// sweepLoop makes time pass for what waits for nobody's call.
func (s *Server) sweepLoop(ctx context.Context) {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.Sweep()
		}
	}
}

func (s *Server) now() time.Time { return s.cfg.Clock.Now().UTC() }
