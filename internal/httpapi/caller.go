package httpapi

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// cookieName is the session's cookie.
const cookieName = "nimbus_session"

// caller is who calls, and the org that the call acts in. Handlers take the
// org from here and from nowhere else.
type caller struct {
	nimbus.Principal
	org string
}

type callerKey struct{}

// callerOf returns the caller that was put into ctx; handlers run only behind
// what puts it there.
func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// identify says who sends a request. A cookie counts only for requests that
// come from our own pages, so that no other page can make a browser act.
func (a *api) identify(ctx context.Context, method string, h http.Header) (caller, error) {
	var p nimbus.Principal
	var err error
	if token, ok := strings.CutPrefix(h.Get("Authorization"), "Bearer "); ok {
		p, err = a.Identity.Authenticate(ctx, token)
	} else if session := cookie(h); session != "" {
		if method != http.MethodGet && !sameOrigin(h) {
			return caller{}, nimbus.Errorf(nimbus.CodeForbidden, "this request comes from another site's page")
		}
		p, err = a.Identity.AuthenticateSession(ctx, session)
	} else {
		err = nimbus.Errorf(nimbus.CodeUnauthenticated, "a token is needed").
			WithHint("set NIMBUS_TOKEN, or sign a browser in with `nimbus login`")
	}
	if err != nil {
		return caller{}, err
	}
	org, err := orgOf(p, h.Get(wire.OrgHeader))
	return caller{Principal: p, org: org}, err
}

// orgOf binds the org: the caller's own, or the one that an administrator names.
func orgOf(p nimbus.Principal, asked string) (string, error) {
	if p.Kind != nimbus.PrincipalAdmin {
		if asked != "" && asked != p.OrgID {
			return "", nimbus.Errorf(nimbus.CodeForbidden, "a %s token acts in its own org alone", p.Kind)
		}
		return p.OrgID, nil
	}
	switch asked {
	case "", nimbus.DefaultOrg:
		return nimbus.DefaultOrgID, nil
	}
	return asked, nimbus.CheckID(nimbus.PrefixOrg, asked)
}

func cookie(h http.Header) string {
	r := http.Request{Header: h}
	c, err := r.Cookie(cookieName)
	if err != nil {
		return ""
	}
	return c.Value
}

// sameOrigin believes the browser: it sets this header and pages can't.
func sameOrigin(h http.Header) bool {
	switch h.Get("Sec-Fetch-Site") {
	case "same-origin", "none":
		return true
	}
	return false
}

// callerInterceptor lets a call through that the table allows, and turns what
// goes wrong behind it into answers.
type callerInterceptor struct{ api *api }

// WrapUnary implements connect.Interceptor.
func (i callerInterceptor) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		allowed, known := access[r.Spec().Procedure]
		if !known {
			return nil, wire.Error(nimbus.Errorf(nimbus.CodeForbidden, "nobody may call this"))
		}
		if allowed != anybody {
			c, err := i.api.identify(ctx, r.HTTPMethod(), r.Header())
			if err == nil {
				err = permit(c, allowed)
			}
			if err != nil {
				return nil, i.api.answer(ctx, r.Spec().Procedure, err)
			}
			ctx = context.WithValue(ctx, callerKey{}, c)
		}
		response, err := next(ctx, r)
		if err != nil {
			return nil, i.api.answer(ctx, r.Spec().Procedure, err)
		}
		return response, nil
	}
}

// WrapStreamingClient implements connect.Interceptor; it is not for clients.
func (i callerInterceptor) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler implements connect.Interceptor. No service streams: a
// new one is refused until it says here who may call it.
func (i callerInterceptor) WrapStreamingHandler(connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(context.Context, connect.StreamingHandlerConn) error {
		return wire.Error(nimbus.Errorf(nimbus.CodeForbidden, "nobody may call this"))
	}
}

func permit(c caller, allowed ...nimbus.PrincipalKind) error {
	if slices.Contains(allowed, c.Kind) {
		return nil
	}
	return nimbus.Errorf(nimbus.CodeForbidden, "a %s token may not do this", c.Kind)
}

// answer makes what the caller gets of an error. A fault of ours is logged
// with its cause; the caller gets a word that it happened.
func (a *api) answer(ctx context.Context, what string, err error) *connect.Error {
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		err = nimbus.Errorf(nimbus.CodeCancelled, "the caller is gone: %w", err)
	}
	if code := nimbus.ErrorCode(err); code == nimbus.CodeInternal || code == nimbus.CodeUnavailable {
		a.Log.ErrorContext(ctx, "call failed", "call", what, "error", describe(err))
	}
	var sent *connect.Error
	if errors.As(err, &sent) && nimbus.ErrorCode(err) == nimbus.CodeInternal {
		return sent // Connect's own: malformed requests
	}
	return wire.Error(err)
}

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
	a.Log.ErrorContext(ctx, "panic in a call", "call", s.Procedure, "panic", what, "stack", stack())
	return wire.Error(errors.New("panic"))
}

// plain is a handler outside of Connect that returns its error.
func (a *api) plain(allowed []nimbus.PrincipalKind, h func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := a.identify(r.Context(), r.Method, r.Header)
		if err == nil {
			err = permit(c, allowed...)
		}
		if err == nil {
			err = h(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)))
		}
		if err == nil || r.Context().Err() != nil {
			return
		}
		if code := nimbus.ErrorCode(err); code == nimbus.CodeInternal || code == nimbus.CodeUnavailable {
			a.Log.ErrorContext(r.Context(), "request failed", "path", r.URL.Path, "error", describe(err))
		}
		wire.WriteHTTPError(w, err)
	})
}
