package httpapi

import (
	"context"
	"net/http"
	"strings"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/bearer"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// keyedPath is where contents are under a URL; the org and a key follow.
const keyedPath = "/cache/"

// What people and service accounts may do with contents under a URL. Who may run
// jobs may fill what jobs restore, and nobody else may.
var (
	readsKeyed  = inOrg(nimbus.RoleViewer, nimbus.ScopeJobsRead)
	writesKeyed = inOrg(nimbus.RoleDeveloper, nimbus.ScopeJobsWrite)
)

// keyed leads to contents under a URL. The tokens of jobs the cache knows by
// itself; those of people and service accounts are bound to the org in the path.
func (a *api) keyed(next Cache) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, ok := shown(r)
		if !ok {
			next.ServeHTTP(w, r)
			return
		}
		org, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, keyedPath), "/")
		q := r.Clone(r.Context())
		q.Header.Set("Authorization", "Bearer "+token)
		q.Header.Set(wire.OrgHeader, org)
		to := writesKeyed
		writes := true
		switch r.Method {
		case http.MethodGet, http.MethodHead, "PROPFIND":
			to, writes = readsKeyed, false
		}
		c, err := a.enter(q, keyedPath, to)
		if err != nil {
			if r.Context().Err() == nil {
				err = a.judge(r.Context(), r.URL.Path, err)
				w.Header().Set(wire.CodeHeader, string(nimbus.ErrorCode(err)))
				next.Refuse(w, r, err)
			}
			return
		}
		asked := q.Clone(r.Context())
		q.URL.Path, q.URL.RawPath = keyedPath+c.org+"/"+rest, ""
		still := func(ctx context.Context) error {
			_, err := a.allow(asked.WithContext(ctx), to)
			return err
		}
		next.As(c.Principal, writes, still).ServeHTTP(w, q)
	})
}

// shown is the token of a person or a service account that a request shows: as a
// bearer's, or as the password of whatever user.
func shown(r *http.Request) (token string, ok bool) {
	if scheme, rest, found := strings.Cut(r.Header.Get("Authorization"), " "); found && strings.EqualFold(scheme, "Bearer") {
		token = strings.TrimLeft(rest, " ")
	} else if _, token, ok = r.BasicAuth(); !ok {
		return "", false
	}
	_, err := bearer.Parse(token)
	return token, err == nil
}
