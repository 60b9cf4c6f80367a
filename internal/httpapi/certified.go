package httpapi

import (
	"net/http"
	"strings"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/api/gen/nimbus/v1/nimbusv1connect"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// ofHosts begins the paths of what only hosts ask for.
var ofHosts = []string{
	"/" + nimbusv1connect.AgentServiceName + "/", "/" + nimbusv1connect.SessionServiceName + "/", "/api/v1/workspaces/",
}

// certified refuses hosts without a certificate, where they must have one. It
// comes before all else: without it not even a join token is looked at.
func (a *api) certified(next http.Handler) http.Handler {
	if !a.HostCertificates {
		return next
	}
	refusal := connect.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.VerifiedChains) > 0 || !startsWithAny(r.URL.Path, ofHosts) {
			next.ServeHTTP(w, r)
			return
		}
		err := nimbus.Errorf(nimbus.CodeForbidden, "this server takes hosts with a client certificate alone").
			WithHint("give the agent --client-cert and --client-key, of a CA that is in the server's --tls-client-ca")
		if refusal.IsSupported(r) {
			_ = refusal.Write(w, r, wire.Error(err)) // the caller is gone: nobody to tell
			return
		}
		wire.WriteHTTPError(w, err)
	})
}

func startsWithAny(path string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(path, p) {
			return true
		}
	}
	return false
}
