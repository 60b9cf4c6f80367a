package telemetry

import (
	"net/url"
	"strings"

	"github.com/nimbus-ci/nimbus"
)

// tracesPath is where traces go below the base of an OTLP endpoint.
const tracesPath = "/v1/traces"

// otlpBase reads the address of an OTLP endpoint. It is the base, below which each
// signal has a place of its own; that of traces is taken for it, too. Codes: invalid.
func otlpBase(endpoint string) (*url.URL, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "the address of the OTLP endpoint is not valid"). // it may hold a password
														WithHint("an address looks like http://127.0.0.1:4318")
	}
	base := func(path string) string { return strings.TrimSuffix(strings.TrimSuffix(path, "/"), tracesPath) }
	u.Path, u.RawPath = base(u.Path), base(u.RawPath)
	return u, nil
}
