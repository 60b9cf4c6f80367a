package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// cookieName is the session's cookie.
const cookieName = "nimbus_session"

// caller is who calls, and the org that the call acts in. Handlers take the
// org from here and from nowhere else. It is "" where a call acts in none.
type caller struct {
	nimbus.Principal
	org   string
	known bool   // by a token that works
	from  string // address
}

// may tells whether a caller may make another call in the org, too: pages offer
// nothing that is refused.
func (c caller) may(procedure string) bool {
	to := access[procedure]
	return to.place == actsInOrg && c.org != "" && c.May(to.scope) && c.Role.Includes(to.least)
}

type callerKey struct{}

// callerOf returns the caller that was put into ctx; handlers run only behind
// what puts it there.
func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// enter lets a request in that the rule allows, within the limits of who sends
// it. What is refused is told to the audit ledger; target is what was asked for.
func (a *api) enter(r *http.Request, target string, to rule) (caller, error) {
	c, err := a.allow(r, to)
	limited := a.afford(r, c, err)
	if err == nil && limited == nil && to.place == actsOnPlatform {
		err = a.Origins.admit(r)
	}
	if err != nil {
		a.refused(r, c, target, to, err, limited == nil)
	}
	if limited != nil {
		return caller{}, limited
	}
	return c, err
}

// allow says who sends a request, and whether that may do what the rule is of.
// Who may not is returned with the error, as far as it is known.
func (a *api) allow(r *http.Request, to rule) (caller, error) {
	p, err := a.identify(r)
	c := caller{Principal: p, known: err == nil, from: a.from(r)}
	if err != nil {
		return c, err
	}
	c.Principal, err = a.permit(r, p, to)
	c.org = c.OrgID
	return c, err
}

// permit binds a caller to the org that a request acts in. The caller is
// returned, as far as it is known, when it is refused, too.
func (a *api) permit(r *http.Request, p nimbus.Principal, to rule) (nimbus.Principal, error) {
	if err := kindFits(p, to); err != nil {
		return p, err
	}
	if to.scope != "" && !p.May(to.scope) {
		return p, nimbus.Errorf(nimbus.CodeForbidden, "this token has not the scope %s", to.scope)
	}
	asked, err := askedOrg(r)
	if err != nil {
		return p, err
	}
	p, err = a.bind(r.Context(), p, to.place, asked)
	if err == nil && to.place == actsInOrg && !p.Role.Includes(to.least) {
		return p, nimbus.Errorf(nimbus.CodeForbidden, "this takes the role %s, and yours is %s", to.least, p.Role).
			WithHint("an admin of the org gives roles: nimbus users add")
	}
	return p, err
}

// askedOrg is the org that a request names, "" for none. Of two, each could be
// the one that somebody on the way believed in.
func askedOrg(r *http.Request) (string, error) {
	named := r.Header.Values(wire.OrgHeader)
	switch {
	case len(named) == 0:
		return "", nil
	case len(named) > 1 || strings.Contains(named[0], ","):
		return "", nimbus.Errorf(nimbus.CodeInvalid, "the request names several orgs").
			WithHint("send the header %s once, with the id or name of one org", wire.OrgHeader)
	}
	return named[0], nil
}

// kindFits tells whether this sort of caller makes calls of this sort at all.
func kindFits(p nimbus.Principal, to rule) error {
	fits := false
	switch to.place {
	case actsAsSelf, actsInOrg:
		fits = p.Person()
	case actsOnPlatform:
		if fits = p.Platform; p.Person() && !fits {
			return nimbus.Errorf(nimbus.CodeForbidden, "this takes an administrator of the platform")
		}
	case actsAsHost:
		fits = p.Kind == nimbus.PrincipalHost
	case actsNowhere, actsAnywhere:
	}
	if !fits {
		return nimbus.Errorf(nimbus.CodeForbidden, "%s tokens may not do this", p.Kind)
	}
	return nil
}

// identify says who sends a request. A cookie counts only for requests that
// come from our own pages, so that no other page can make a browser act.
func (a *api) identify(r *http.Request) (nimbus.Principal, error) {
	if scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") { // RFC 9110, section 11.1
		return a.Identity.Authenticate(r.Context(), strings.TrimLeft(token, " "))
	}
	if session := cookie(r); session != "" {
		if r.Method != http.MethodGet && !sameOrigin(r) {
			return nimbus.Principal{}, nimbus.Errorf(nimbus.CodeForbidden, "this request comes from another site's page")
		}
		return a.Identity.AuthenticateSession(r.Context(), session)
	}
	return nimbus.Principal{}, nimbus.Errorf(nimbus.CodeUnauthenticated, "a token is needed").
		WithHint("set NIMBUS_TOKEN, or sign a browser in with `nimbus login`")
}

// bind is the one place that says in which org a call acts: the one that a
// header names, or else the caller's first. An org that the caller has no role
// in is answered like one that does not exist.
func (a *api) bind(ctx context.Context, p nimbus.Principal, where place, asked string) (nimbus.Principal, error) {
	switch {
	case where == actsAsHost && asked != "":
		return p, nimbus.Errorf(nimbus.CodeForbidden, "%s tokens act in no org", p.Kind)
	case where != actsAsSelf && where != actsInOrg:
		return p, nil
	}
	id, err := a.orgOf(ctx, p, asked)
	if err != nil {
		return p, err
	}
	if id == "" && where == actsInOrg {
		return p, nimbus.Errorf(nimbus.CodeForbidden, "you are a member of no org").WithHint("an admin of one lets you in: nimbus users add")
	}
	bound, ok := p.In(id)
	if id != "" && !ok {
		return p, noOrg()
	}
	if id == "" {
		return p, nil
	}
	return bound, nil
}

// orgOf is the id of the org that is asked for by id or name.
func (a *api) orgOf(ctx context.Context, p nimbus.Principal, asked string) (string, error) {
	for _, m := range p.Orgs {
		if asked == "" || asked == m.OrgID || asked == m.OrgName {
			return m.OrgID, nil
		}
	}
	switch {
	case p.Platform && (asked == "" || asked == nimbus.DefaultOrg):
		return nimbus.DefaultOrgID, nil
	case p.Platform:
		o, err := a.Identity.Org(ctx, asked)
		return o.ID, err
	case asked != "":
		return "", noOrg()
	}
	return "", nil // a member of none
}

func noOrg() error {
	return nimbus.Errorf(nimbus.CodeNotFound, "there is no such org").WithHint("`nimbus orgs` lists yours")
}

func cookie(r *http.Request) string {
	c, err := r.Cookie(cookieName)
	if err != nil {
		return ""
	}
	return c.Value
}

// sameOrigin believes the browser: pages can't set these headers. Browsers
// leave the first out over plain http; then the second says where a page is from.
func sameOrigin(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" {
		return site == "same-origin" || site == "none"
	}
	origin, err := url.Parse(r.Header.Get("Origin"))
	return err == nil && origin.Host != "" && origin.Host == r.Host
}

// admit lets a call through that the table allows. It comes before the
// message is read: nobody is worth memory before it is known who it is.
func (a *api) admit(next http.Handler) http.Handler {
	refusal := connect.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to, known := access[r.URL.Path]
		switch {
		case !known:
			noCall(w, r)
			return
		case to == anybody:
			if err := a.stranger(r); err != nil {
				_ = refusal.Write(w, r, a.answer(r.Context(), r.URL.Path, err)) // the caller is gone: nobody to tell
				return
			}
			r.Body = http.MaxBytesReader(w, r.Body, maxStranger)
			r = r.WithContext(context.WithValue(r.Context(), callerKey{}, caller{from: a.from(r)}))
		default:
			c, err := a.enter(r, r.URL.Path, to)
			if err != nil {
				_ = refusal.Write(w, r, a.answer(r.Context(), r.URL.Path, err)) // the caller is gone: nobody to tell
				return
			}
			r = r.WithContext(context.WithValue(r.Context(), callerKey{}, c))
		}
		next.ServeHTTP(w, r)
	})
}

// answers is an interceptor that turns what goes wrong in a call into answers.
type answers struct{ api *api }

// WrapUnary implements connect.Interceptor.
func (i answers) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		c, procedure := callerOf(ctx), r.Spec().Procedure
		response, err := next(ctx, r)
		if err != nil {
			i.api.failed(ctx, c, procedure, thingsIn(r.Any()), err)
			return nil, i.api.answer(ctx, procedure, err)
		}
		if reads(r.Spec()) && !ofPlatform(r.Any()) {
			i.api.read(c, procedure, access[procedure])
		}
		return response, nil
	}
}

// WrapStreamingClient implements connect.Interceptor; it is not for clients.
func (i answers) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler implements connect.Interceptor. No service streams: a
// new one is refused until its errors become answers here.
func (i answers) WrapStreamingHandler(connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(context.Context, connect.StreamingHandlerConn) error {
		return wire.Error(nimbus.Errorf(nimbus.CodeForbidden, "nobody may call this"))
	}
}

// answer makes what the caller gets of an error. A fault of ours is logged
// with its cause; the caller gets a word that it happened.
func (a *api) answer(ctx context.Context, what string, err error) *connect.Error {
	var sent *connect.Error
	if errors.As(err, &sent) && nimbus.ErrorCode(err) == nimbus.CodeInternal {
		return sent // Connect's own: malformed requests
	}
	return wire.Error(a.judge(ctx, what, err))
}

// judge tells whose fault an error is, and logs one of ours with its cause and
// the request's id; by that id the caller can ask for it.
func (a *api) judge(ctx context.Context, what string, err error) error {
	switch {
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return nimbus.Errorf(nimbus.CodeCancelled, "the caller is gone")
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil:
		return nimbus.Errorf(nimbus.CodeUnavailable, "the time that the caller gave was over")
	}
	if nimbus.ErrorCode(err) == nimbus.CodeInternal && nimbus.IsFull(err) {
		err = &nimbus.Error{Code: nimbus.CodeUnavailable, Message: "the server's disk is full", Hint: fullHint, Err: err}
	}
	code := nimbus.ErrorCode(err)
	if code == nimbus.CodeInternal || code == nimbus.CodeUnavailable {
		a.Log.ErrorContext(ctx, "request failed", "what", what, "error", describe(err))
	}
	if code == nimbus.CodeInternal {
		return nimbus.Errorf(nimbus.CodeInternal, "internal error").WithHint("the server's log has more: request %s", RequestID(ctx))
	}
	return err
}

// fullHint is for who runs the server; others can but tell them.
const fullHint = "whoever runs the server has to make room on the disk of its data directory (--data), then the same call works"

// describe is an error with its cause, for the operator.
func describe(err error) string {
	out := err.Error()
	var own *nimbus.Error
	if errors.As(err, &own) && own.Err != nil {
		out += ": " + own.Err.Error()
	}
	return out
}

func (a *api) recovered(ctx context.Context, s connect.Spec, _ http.Header, what any) error {
	return a.answer(ctx, s.Procedure, fmt.Errorf("panic: %v\n%s", what, stack()))
}

// plain is a handler outside of Connect that returns its error. The table of
// routes says who may call it.
func (a *api) plain(h func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := a.enter(r, r.Pattern, routes[r.Pattern])
		if err == nil {
			if r.Method == http.MethodGet {
				a.read(c, r.Pattern, routes[r.Pattern]) // first: streams go on for hours
			}
			err = h(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)))
			a.failed(r.Context(), c, r.Pattern, thingsOf(r), err)
		}
		if err == nil || r.Context().Err() != nil {
			return
		}
		err = a.judge(r.Context(), r.URL.Path, err)
		if answer, ok := w.(*answerWriter); ok && answer.status != 0 {
			panic(http.ErrAbortHandler) // half an answer must not look like a whole one
		}
		wire.WriteHTTPError(w, err)
	})
}
