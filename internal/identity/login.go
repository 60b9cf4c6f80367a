package identity

import (
	"context"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// CreateLogin makes a code that signs one browser in, once: as the caller, or
// as another user, for who administers the platform. A session does no more
// than the token that it was made with, and ends with it. Codes: forbidden,
// not_found.
func (s *Service) CreateLogin(ctx context.Context, p nimbus.Principal, user string) (code string, err error) {
	r := Record{Kind: KindLogin, Subject: p.Subject, Scopes: p.Scopes, Parent: p.TokenID, ValidFor: loginFor, CreatedBy: p.Actor()}
	switch {
	case p.FromSession:
		return "", nimbus.Errorf(nimbus.CodeForbidden, "a session makes no other").WithHint("use `nimbus login` with a token")
	case user != "" && user != p.Subject && user != p.Email:
		if !p.Platform {
			return "", nimbus.Errorf(nimbus.CodeForbidden, "only an administrator of the platform signs others in")
		}
		u, err := s.store.User(ctx, user)
		if err != nil {
			return "", err
		}
		r.Subject = u.ID
	case p.Kind == nimbus.PrincipalUser: // by a token of one org
		if len(p.Orgs) != 1 {
			return "", nimbus.Errorf(nimbus.CodeForbidden, "this token is of no org")
		}
		r.OrgID, r.Role = p.Orgs[0].OrgID, p.Orgs[0].Role
	case p.Kind != nimbus.PrincipalAdmin:
		return "", nimbus.Errorf(nimbus.CodeForbidden, "%ss have no browser", p.Kind)
	}
	e := done(p, "login.create", "", "subject", r.Subject, "with", p.TokenID)
	e.OrgID = r.OrgID
	return s.issue(ctx, r, e)
}

// RedeemLogin trades a code for a session.
func (s *Service) RedeemLogin(ctx context.Context, code string) (session string, validFor time.Duration, err error) {
	const hint = "make another with `nimbus login`"
	if kind, err := parse(code); err != nil || kind != KindLogin {
		return "", 0, refused().WithHint(hint)
	}
	b, err := s.store.Bearer(ctx, hash(code))
	if nimbus.ErrorCode(err) == nimbus.CodeNotFound {
		return "", 0, refused().WithHint(hint)
	}
	if err != nil {
		return "", 0, err
	}
	if err := s.redeem(ctx, code, KindLogin, hint); err != nil {
		return "", 0, err
	}
	session, err = s.issue(ctx, Record{Kind: KindSession, OrgID: b.OrgID, Subject: b.Subject, Role: b.Role, Scopes: b.Scopes,
		Parent: b.Parent, ValidFor: sessionFor, CreatedBy: b.CreatedBy},
		nimbus.AuditEvent{OrgID: b.OrgID, Actor: "login:" + b.ID, Action: "session.create", Outcome: nimbus.AuditAllowed,
			Detail: map[string]string{"subject": b.Subject}})
	if err != nil {
		return "", 0, err
	}
	made, err := s.store.Bearer(ctx, hash(session))
	return session, made.ExpiresAt.Sub(made.Now), err
}

// EndSession signs a browser out.
func (s *Service) EndSession(ctx context.Context, p nimbus.Principal, session string) error {
	if kind, err := parse(session); err != nil || kind != KindSession {
		return refused()
	}
	return s.forget(ctx, s.store.EndSession(ctx, hash(session), done(p, "session.end", "")))
}

// forget heeds at once, here, what was just revoked; the other replicas do when
// they look.
func (s *Service) forget(ctx context.Context, err error) error {
	if _, started := s.known.position(); err == nil && started {
		_ = s.Refresh(ctx) // Run goes on trying
	}
	return err
}

// done is the audit event of what a principal did in the org that it acts in.
// detail is names and values in turn.
func done(p nimbus.Principal, action, target string, detail ...string) nimbus.AuditEvent {
	e := nimbus.AuditEvent{OrgID: p.OrgID, Actor: p.Actor(), Action: action, Target: target, Outcome: nimbus.AuditAllowed}
	for i := 0; i+1 < len(detail); i += 2 {
		if e.Detail == nil {
			e.Detail = map[string]string{}
		}
		e.Detail[detail[i]] = detail[i+1]
	}
	return e
}
