package httpapi

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/api/gen/nimbus/v1/nimbusv1connect"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// Tally counts for the audit ledger what happens too often for an entry each.
// target is what was asked for: a procedure, or the pattern of a route.
type Tally interface {
	// Denied counts a refusal, in an org's chain ("" for the platform's). home is
	// the org of who called, "" for none, and actor "" for a caller that nobody
	// knows, from its address.
	Denied(orgID, home, actor, target string, code nimbus.Code, from string)
	// Read counts that an administrator of the platform read something of an org.
	Read(orgID, actor, target, from string)
}

// refused tells the ledger of a request that was not let through: in the chain
// of the caller's own org, whatever it asked for, and also in that of the org
// that it named and has no role in. Both, or else what is missing in the first
// would tell which orgs there are. What is not about orgs is in the platform's
// chain. An org is looked up where look says that the caller may cost so much.
func (a *api) refused(r *http.Request, c caller, target string, to rule, err error, look bool) {
	code := nimbus.ErrorCode(err)
	hidden := code == nimbus.CodeNotFound && c.known && !c.Platform // an org, from who has no role there
	if code != nimbus.CodeUnauthenticated && code != nimbus.CodeForbidden && !hidden {
		return
	}
	own, other := c.home(), ""
	switch {
	case to.place != actsInOrg && to.place != actsAsSelf:
		a.Tally.Denied("", own, c.actor(), target, code, c.from)
		return
	case look && c.known && c.Person() && c.OrgID == "":
		own, other = a.named(r.Context(), c.Principal, r.Header.Get(wire.OrgHeader), own)
	}
	a.Tally.Denied(own, own, c.actor(), target, code, c.from)
	if other != "" {
		a.Tally.Denied(other, own, c.actor(), target, code, c.from)
	}
}

// named is the org of a header: as the caller's own where it may act there, or
// else as another's beside the own one. Neither is changed by what is no org.
func (a *api) named(ctx context.Context, p nimbus.Principal, asked, own string) (mine, other string) {
	if asked == "" && own == "" && p.Platform {
		return nimbus.DefaultOrgID, ""
	}
	if nimbus.CheckOrgName(asked) != nil && nimbus.CheckID(nimbus.PrefixOrg, asked) != nil {
		return own, ""
	}
	for _, m := range p.Orgs {
		if asked == m.OrgID || asked == m.OrgName {
			return m.OrgID, ""
		}
	}
	id, err := a.whose(ctx, asked)
	switch {
	case err != nil || id == "":
		return own, "" // the refusal is what matters
	case p.Platform:
		return id, ""
	}
	return own, id
}

// failed tells the ledger of a call that its handler refused. What a caller asks
// for by the id of a thing that is not its org's is answered like what does not
// exist; the ledger of the org whose it is tells of it all the same.
func (a *api) failed(ctx context.Context, c caller, target string, things []string, err error) {
	switch code := nimbus.ErrorCode(err); {
	case code == nimbus.CodeUnauthenticated || code == nimbus.CodeForbidden:
		a.Tally.Denied(c.OrgID, c.home(), c.actor(), target, code, c.from)
	case code == nimbus.CodeNotFound && c.Person() && !c.Platform && len(things) > 0:
		a.Tally.Denied(c.home(), c.home(), c.actor(), target, code, c.from)
		for _, orgID := range a.owners(ctx, c, things) {
			a.Tally.Denied(orgID, c.home(), c.actor(), target, code, c.from)
		}
	}
}

// Bounds of looking up whose the things of a call are.
const (
	maxLookups    = 4
	lookupTimeout = 2 * time.Second
)

// owners are the orgs that the caller may not act in and that have one of the
// things, each once.
func (a *api) owners(ctx context.Context, c caller, things []string) (orgs []string) {
	for _, thing := range things[:min(len(things), maxLookups)] {
		orgID, err := a.whose(ctx, thing)
		if err != nil || orgID == "" || slices.Contains(orgs, orgID) {
			continue
		}
		if _, mine := c.In(orgID); !mine {
			orgs = append(orgs, orgID)
		}
	}
	return orgs
}

// whose is the org that a thing is of. It is found out however little time the
// caller gave its call: that must not be a way around the record.
func (a *api) whose(ctx context.Context, thing string) (string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookupTimeout)
	defer cancel()
	return a.Identity.OrgOf(ctx, thing)
}

// thingsIn are the ids, and names of repositories, that a request asks for.
func thingsIn(request any) (things []string) {
	m, ok := request.(proto.Message)
	if !ok {
		return nil
	}
	m.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		name := string(f.Name())
		switch {
		case f.Kind() != protoreflect.StringKind || f.IsMap():
		case f.IsList() && strings.HasSuffix(name, "_ids"):
			for i := range min(v.List().Len(), maxLookups) {
				things = append(things, v.List().Get(i).String())
			}
		case !f.IsList() && (strings.HasSuffix(name, "_id") || name == "repo"):
			things = append(things, v.String())
		}
		return true
	})
	return things
}

// thingsOf is the id that a path names, if it does.
func thingsOf(r *http.Request) []string {
	if id := r.PathValue("id"); id != "" {
		return []string{id}
	}
	return nil
}

// read tells the ledger that who administers the platform read something of an
// org without a role there that would do.
func (a *api) read(c caller, target string, to rule) {
	if to.place != actsInOrg || !c.Platform {
		return
	}
	i := slices.IndexFunc(c.Orgs, func(m nimbus.Membership) bool { return m.OrgID == c.org })
	if i >= 0 && c.Orgs[i].Role.Includes(to.least) {
		return
	}
	a.Tally.Read(c.org, c.actor(), target, c.from)
}

// reads tells of a call that tells of things and does nothing to them; CancelJob
// of a job that is over is one, which leaves no other entry.
func reads(s connect.Spec) bool {
	return s.IdempotencyLevel == connect.IdempotencyNoSideEffects || s.Procedure == nimbusv1connect.JobServiceCancelJobProcedure
}

// ofPlatform tells of a request for what is the platform's, whatever org the
// call is bound to.
func ofPlatform(request any) bool {
	m, ok := request.(interface{ GetPlatform() bool })
	return ok && m.GetPlatform()
}

// watched tells the audit ledger of what a handler of its own refuses.
func (a *api) watched(target string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r)
		if answer, ok := w.(*answerWriter); ok && (answer.status == http.StatusUnauthorized || answer.status == http.StatusForbidden) {
			a.Tally.Denied("", "", "", target, nimbus.CodeUnauthenticated, a.from(r))
		}
	})
}

// from is the address of who sends a request.
func (a *api) from(r *http.Request) string {
	if address := a.Origins.address(r); address.IsValid() {
		return address.String()
	}
	return r.RemoteAddr
}

// home is the org that a caller is of: the one that it acts in, or else its
// first; "" for one of none.
func (c caller) home() string {
	if c.OrgID == "" && len(c.Orgs) > 0 {
		return c.Orgs[0].OrgID
	}
	return cmp.Or(c.OrgID, c.org)
}

// actor is how the ledger names a caller; "" for one that nobody knows.
func (c caller) actor() string {
	if c.Kind == "" {
		return ""
	}
	return c.Actor()
}
