package githubtest

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Limits are those that the double keeps. A zero field is no limit.
type Limits struct {
	Core       int // calls an hour; the App and its installation have so many each
	Runners    int // registrations an hour
	Burst      int // registrations a minute
	Points     int // a minute: 1 to read, 5 to write
	Content    int // a minute
	Concurrent int // calls at once
}

// GitHubLimits are those of GitHub.com.
func GitHubLimits() Limits {
	return Limits{Core: 5000, Runners: 10_000, Burst: 180, Points: 900, Content: 80, Concurrent: 100}
}

// Usage is what was spent, and what was asked for beyond the limits.
type Usage struct {
	Calls         int // all that came
	Over          map[string]int
	Unchanged     int // that were answered by 304, and cost nothing of the primary limits
	MostInHour    int // calls of the installation in one window
	MostPoints    int // in a minute
	MostAtOnce    int
	Registrations int
}

// usage counts what callers spend, each payer's apart.
type usage struct {
	Usage
	primary map[string]*quota // by payer and resource
	sliding map[string][]time.Time
	atOnce  int
}

// quota is one window of a primary limit: it begins with its first call.
type quota struct {
	used  int
	reset time.Time
}

// Usage tells what was spent so far.
func (s *Server) Usage() Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.usage.Usage
	out.Over = map[string]int{}
	for name, n := range s.usage.Over {
		out.Over[name] = n
	}
	return out
}

// resourceOf is the primary limit that an operation counts against.
func resourceOf(op string) string {
	if strings.HasPrefix(op, "actions/generate-runner-jitconfig") {
		return "actions_runner_registration"
	}
	return "core"
}

func isContent(op, method string) bool {
	return method != http.MethodGet && method != http.MethodDelete && resourceOf(op) == "core" && op != "apps/create-installation-access-token"
}

// charge counts a call and refuses one that is over a limit, as GitHub does.
// header is what every answer tells of the primary limit. s.mu is held.
func (s *Server) charge(op, method, payer string) (header http.Header, err error) {
	u, now, limits := &s.usage, s.now(), s.cfg.Limits
	u.Calls++
	resource := resourceOf(op)
	most := limits.Core
	if resource != "core" {
		most = limits.Runners
		u.Registrations++
	}
	key := payer + " " + resource
	q := u.primary[key]
	if q == nil || !now.Before(q.reset) {
		q = &quota{reset: now.Add(time.Hour)}
		u.primary[key] = q
	}
	q.used++
	header = http.Header{"X-Ratelimit-Resource": {resource}, "X-Ratelimit-Used": {strconv.Itoa(q.used)},
		"X-Ratelimit-Reset": {strconv.FormatInt(q.reset.Unix(), 10)}}
	header.Set("X-Ratelimit-Limit", strconv.Itoa(max(most, 5000)))
	header.Set("X-Ratelimit-Remaining", strconv.Itoa(max(max(most, 5000)-q.used, 0)))
	if most > 0 {
		header.Set("X-Ratelimit-Limit", strconv.Itoa(most))
		header.Set("X-Ratelimit-Remaining", strconv.Itoa(max(most-q.used, 0)))
	}
	if most > 0 && q.used > most {
		return header, s.over(resource, header, "API rate limit exceeded for installation ID "+payer+".")
	}
	points := 1
	if method != http.MethodGet {
		points = 5
	}
	spent := u.slide("points "+payer, now, points)
	u.MostPoints = max(u.MostPoints, spent)
	secondary := func(name string, used, most int) error {
		if most == 0 || used <= most {
			return nil
		}
		header.Set("Retry-After", "60")
		return s.over(name, header, "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.")
	}
	if err := secondary("points", spent, limits.Points); err != nil {
		return header, err
	}
	if isContent(op, method) {
		if err := secondary("content", u.slide("content "+payer, now, 1), limits.Content); err != nil {
			return header, err
		}
	}
	if resource != "core" {
		if err := secondary("burst", u.slide("burst", now, 1), limits.Burst); err != nil {
			return header, err
		}
	}
	return header, secondary("concurrent", u.atOnce, limits.Concurrent)
}

// settle counts a call once its answer is known, and tells what is left. One
// whose answer has not changed costs nothing of the primary limit. s.mu is held.
func (s *Server) settle(op, payer string, status int, told http.Header) {
	u, resource := &s.usage, resourceOf(op)
	q := u.primary[payer+" "+resource]
	if status == http.StatusNotModified {
		q.used--
		u.Unchanged++
		told.Set("X-Ratelimit-Used", strconv.Itoa(q.used))
		told.Set("X-Ratelimit-Remaining", strconv.Itoa(atoi(told.Get("X-Ratelimit-Remaining"), 0)+1))
	}
	if payer != "app" && resource == "core" {
		u.MostInHour = max(u.MostInHour, q.used)
	}
}

func (s *Server) over(name string, header http.Header, message string) error {
	s.usage.Over[name]++
	return &apiError{status: http.StatusForbidden, message: message, header: header}
}

// slide counts n in the last minute and returns how many there were.
func (u *usage) slide(name string, now time.Time, n int) int {
	past := u.sliding[name]
	for len(past) > 0 && now.Sub(past[0]) >= time.Minute {
		past = past[1:]
	}
	for range n {
		past = append(past, now)
	}
	u.sliding[name] = past
	return len(past)
}

// enter counts a call that is under way; the returned function ends it.
func (s *Server) enter() (leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.usage.atOnce++
	s.usage.MostAtOnce = max(s.usage.MostAtOnce, s.usage.atOnce)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.usage.atOnce--
	}
}

// payerOf is who pays for an operation on a path.
func (s *Server) payerOf(path string) string {
	switch authorityFor(path) {
	case asInstallation:
		return fmt.Sprint(s.cfg.InstallationID)
	case asApp:
		return "app"
	}
	return "anybody"
}
