package httpapi

import (
	"cmp"
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/api/gen/nimbus/v1/nimbusv1connect"
	"github.com/nimbus-ci/nimbus/internal/ratelimit"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// Limits say how often who may call. A zero rate stands for its default.
type Limits struct {
	// Submit is for the jobs that an org submits, API for its other calls.
	Submit, API ratelimit.Rate
	// Webhook is for the deliveries of an installation of a GitHub App. An
	// address may send four times as many, before it is known whose they are.
	Webhook ratelimit.Rate
	// Stranger is for an address whose calls carry no token, or a wrong one.
	Stranger ratelimit.Rate
	// Host is for all calls of a host: a bound for one that has gone mad.
	Host ratelimit.Rate
}

// DefaultLimits are the usual ones. That of webhooks is what GitHub does at its worst: one push can
// make matrices of 256 jobs, of three events each, in every workflow. Hosts
// with all their sandboxes busy stay below a tenth of theirs.
func DefaultLimits() Limits {
	return Limits{
		Submit:   ratelimit.Rate{PerSecond: 100, Burst: 5000},
		API:      ratelimit.Rate{PerSecond: 200, Burst: 2000},
		Webhook:  ratelimit.Rate{PerSecond: 1000, Burst: 20_000},
		Stranger: ratelimit.Rate{PerSecond: 200, Burst: 20_000},
		Host:     ratelimit.Rate{PerSecond: 2000, Burst: 10_000},
	}
}

// shellRate is what the open shells of somebody may take: a busy terminal is
// nothing that the org's other calls should wait for.
var shellRate = ratelimit.Rate{PerSecond: 200, Burst: 1000}

// webhookShare is how many installations' deliveries may come from one address.
const webhookShare = 4

func (l Limits) withDefaults() Limits {
	usual := DefaultLimits()
	l.Submit, l.API = cmp.Or(l.Submit, usual.Submit), cmp.Or(l.API, usual.API)
	l.Webhook, l.Stranger, l.Host = cmp.Or(l.Webhook, usual.Webhook), cmp.Or(l.Stranger, usual.Stranger), cmp.Or(l.Host, usual.Host)
	return l
}

// Gate holds the limits. What orgs take is counted by all replicas together;
// hosts and strangers by each alone, so that a flood costs nobody else a thing.
type Gate struct {
	limits   Limits
	own      *ratelimit.Overrides
	shared   ratelimit.Limiter
	alone    ratelimit.Limiter
	observer Observer
}

// NewGate returns a gate. own are the rates that orgs have instead of those of
// limits; shared counts for orgs, nil where this process is the only one. own and
// observer may be nil.
func NewGate(limits Limits, own *ratelimit.Overrides, shared ratelimit.Limiter, observer Observer) *Gate {
	alone := ratelimit.NewLocal(nimbus.SystemClock{}, ratelimit.DefaultKeys)
	if shared == nil {
		shared = alone
	}
	if observer == nil {
		observer = nobody{}
	}
	return &Gate{limits: limits.withDefaults(), own: own, shared: shared, alone: alone, observer: observer}
}

// take takes one from a bucket. A limiter that fails refuses nobody: a limit is
// worth less than the calls.
func (g *Gate) take(ctx context.Context, l ratelimit.Limiter, limit, key, what string, r ratelimit.Rate) error {
	wait, err := l.Take(ctx, limit+"/"+key, r)
	if err != nil || wait == 0 {
		return nil //nolint:nilerr // see above
	}
	g.observer.Refused(limit)
	return ratelimit.Refusal(what, r, wait)
}

// Delivery counts a delivery of an installation, once its signature is known
// to be good. owner is the GitHub owner that it is about, "" for none. Codes:
// rate_limited.
func (g *Gate) Delivery(ctx context.Context, installationID int64, owner string) error {
	return g.take(ctx, g.shared, "webhook", strconv.FormatInt(installationID, 10), "webhooks of this installation",
		g.own.OfOwner(owner, nimbus.RateWebhooks, g.limits.Webhook))
}

// call counts a call of somebody who is known.
func (g *Gate) call(ctx context.Context, c caller, procedure string) error {
	switch {
	case c.Kind == nimbus.PrincipalHost:
		return g.take(ctx, g.alone, "host", c.Subject, "calls of this host", g.limits.Host)
	case procedure == nimbusv1connect.ShellServiceSendShellProcedure, procedure == nimbusv1connect.ShellServiceReceiveShellProcedure:
		return g.take(ctx, g.alone, "shell", c.org+"/"+c.Subject, "calls of your shells", shellRate)
	case procedure == nimbusv1connect.JobServiceSubmitJobProcedure:
		return g.take(ctx, g.shared, "submit", c.org, "submissions of this org", g.own.Of(c.org, nimbus.RateSubmissions, g.limits.Submit))
	}
	return g.take(ctx, g.shared, "api", cmp.Or(c.org, c.Subject), "calls of this org", g.own.Of(c.org, nimbus.RateAPI, g.limits.API))
}

// stranger counts a call of somebody who isn't known.
func (a *api) stranger(r *http.Request) error {
	return a.Gate.take(r.Context(), a.Gate.alone, "stranger", bucketOf(a.Origins.address(r)), "calls from this address", a.Gate.limits.Stranger)
}

// received counts a webhook before it is looked at.
func (a *api) received(r *http.Request) error {
	return a.Gate.take(r.Context(), a.Gate.alone, "webhook_address", bucketOf(a.Origins.address(r)), "webhooks from this address",
		a.Gate.limits.Webhook.Times(webhookShare))
}

// afford counts a call of who was found to make it, or of a stranger where
// nobody was. What was refused counts too: it costs as much. err is why it was.
func (a *api) afford(r *http.Request, c caller, err error) error {
	code := nimbus.ErrorCode(err)
	switch {
	case c.known && code != nimbus.CodeInternal && code != nimbus.CodeUnavailable:
		c.org = c.home()
		return a.Gate.call(r.Context(), c, r.URL.Path)
	case code == nimbus.CodeUnauthenticated || code == nimbus.CodeForbidden:
		return a.stranger(r)
	}
	return nil
}

// counted is a handler behind a limit.
func (a *api) counted(take func(*http.Request) error, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := take(r); err != nil {
			wire.WriteHTTPError(w, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Observer hears of requests. Its methods return at once and may be called
// concurrently.
type Observer interface {
	// Asked hears of a request that came, and Answered of each of these once it
	// is answered. Of procedures, and of codes, there are few.
	Asked()
	Answered(procedure, code string, took time.Duration)
	// Refused hears of a request that was refused by a limit.
	Refused(limit string)
}

// nobody hears nothing.
type nobody struct{}

func (nobody) Asked()                                 {}
func (nobody) Answered(string, string, time.Duration) {}
func (nobody) Refused(string)                         {}
