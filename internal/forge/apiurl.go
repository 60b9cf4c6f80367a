package forge

import (
	"net"
	"net/url"
	"strings"

	nimbus "github.com/nimbus-ci/nimbus"
)

// enterprisePath is where a GitHub Enterprise Server has its API.
const enterprisePath = "/api/v3"

// APIURL is the address of an API as it is written down: "" is GitHub's own. The
// address at which people see the pages is taken for that of the API behind them.
func APIURL(address string) string {
	address = strings.TrimRight(strings.TrimSpace(address), "/")
	if address == "" {
		return defaultBaseURL
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Path != "" || u.RawQuery != "" {
		return address
	}
	host := strings.ToLower(u.Host)
	switch {
	case host == "github.com" || host == "www.github.com":
		return defaultBaseURL
	case strings.HasPrefix(host, "api."), isOwnName(u.Hostname()):
		return address
	case strings.HasSuffix(host, ".ghe.com"):
		return u.Scheme + "://api." + host
	}
	return address + enterprisePath
}

// isOwnName tells whether a name is of no domain, as those of doubles are.
func isOwnName(host string) bool {
	return net.ParseIP(host) != nil || !strings.Contains(host, ".")
}

// IsEnterpriseServer tells whether an API is that of a GitHub Enterprise Server,
// and not of GitHub's own.
func IsEnterpriseServer(api string) bool {
	u, err := url.Parse(APIURL(api))
	if err != nil {
		return true
	}
	host := strings.ToLower(u.Hostname())
	return host != "api.github.com" && !strings.HasSuffix(host, ".ghe.com")
}

// checkAPI tells whether an address can be that of an API. Codes: invalid, for
// one that would show the App's key to the network, too.
func checkAPI(address string) error {
	u, err := url.Parse(address)
	if err != nil || link(address) == "" || u.User != nil || u.RawQuery != "" {
		return nimbus.Errorf(nimbus.CodeInvalid, "%.200q is no address of a GitHub API", redacted(u, address)).
			WithHint("a GitHub Enterprise Server's is https://HOST/api/v3")
	}
	if u.Scheme == "https" {
		return nil
	}
	if ip := net.ParseIP(u.Hostname()); u.Hostname() == "localhost" || ip != nil && ip.IsLoopback() {
		return nil
	}
	return nimbus.Errorf(nimbus.CodeInvalid, "plain http to %s would show the App's tokens to the network", u.Host).WithHint("use https")
}

// redacted is an address without what may be a password in it.
func redacted(u *url.URL, address string) string {
	if u == nil || u.Host == "" {
		return address
	}
	return u.Scheme + "://" + u.Host + u.Path
}
