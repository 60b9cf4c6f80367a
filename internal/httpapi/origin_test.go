package httpapi

import (
	"net/http"
	"net/netip"
	"testing"

	"github.com/nimbus-ci/nimbus"
)

func ranges(t *testing.T, s ...string) []netip.Prefix {
	t.Helper()
	out, err := ParseOrigins(s)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestWhoCalls: X-Forwarded-For is believed as far as proxies are trusted, from
// the right, and never beyond what somebody unknown wrote.
func TestWhoCalls(t *testing.T) {
	t.Parallel()
	const proxy, other = "10.0.0.1:4711", "203.0.113.9:4711"
	trusted := Origins{TrustedProxies: ranges(t, "10.0.0.0/8", "fd00::/8")}
	for name, c := range map[string]struct {
		origins Origins
		remote  string
		chain   []string
		want    string
	}{
		"nobody is trusted":           {Origins{}, proxy, []string{"192.0.2.1"}, "10.0.0.1"},
		"who connects is not trusted": {trusted, other, []string{"192.0.2.1"}, "203.0.113.9"},
		"forwarded":                   {trusted, proxy, []string{"192.0.2.1"}, "192.0.2.1"},
		"through two proxies":         {trusted, proxy, []string{"192.0.2.1, 10.0.0.2"}, "192.0.2.1"},
		"in two headers":              {trusted, proxy, []string{"192.0.2.1", "10.0.0.2"}, "192.0.2.1"},
		"made up before the proxy":    {trusted, proxy, []string{"10.9.9.9, 198.51.100.7"}, "198.51.100.7"},
		"made up in the chain":        {trusted, proxy, []string{"127.0.0.1, 198.51.100.7, 10.0.0.2"}, "198.51.100.7"},
		"no header":                   {trusted, proxy, nil, "10.0.0.1"},
		"nonsense":                    {trusted, proxy, []string{"198.51.100.7, nonsense"}, "10.0.0.1"},
		"all are proxies":             {trusted, proxy, []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		"IPv4 in IPv6":                {trusted, "[::ffff:10.0.0.1]:1", []string{"::ffff:192.0.2.1"}, "192.0.2.1"},
		"IPv6":                        {trusted, "[fd00::1]:1", []string{"2001:db8::1"}, "2001:db8::1"},
	} {
		r := &http.Request{RemoteAddr: c.remote, Header: http.Header{"X-Forwarded-For": c.chain}}
		if got := c.origins.address(r); got.String() != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestParseOrigins(t *testing.T) {
	t.Parallel()
	if got := ranges(t, "192.0.2.7", " 10.0.0.0/8 ", "::1"); got[0].String() != "192.0.2.7/32" || got[1].String() != "10.0.0.0/8" || got[2].String() != "::1/128" {
		t.Errorf("read as %v", got)
	}
	for _, bad := range []string{"", "10.0.0.0/33", "10.0.0.1/8", "host", "10.0.0", "fe80::1%eth0"} {
		if got, err := ParseOrigins([]string{bad}); nimbus.ErrorCode(err) != nimbus.CodeInvalid || nimbus.ErrorHint(err) == "" {
			t.Errorf("%q is read as %v, %v", bad, got, err)
		}
	}
}

// TestBucketsOfAddresses: who has one IPv6 address has all of its network.
func TestBucketsOfAddresses(t *testing.T) {
	t.Parallel()
	bucket := func(s string) string { return bucketOf(netip.MustParseAddr(s)) }
	if bucket("2001:db8::1") != bucket("2001:db8::ffff:2") || bucket("2001:db8::1") == bucket("2001:db8:0:1::1") || bucket("192.0.2.1") == bucket("192.0.2.2") {
		t.Errorf("buckets: %s %s", bucket("2001:db8::1"), bucket("192.0.2.1"))
	}
}
