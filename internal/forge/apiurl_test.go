package forge

import (
	"strings"
	"testing"

	nimbus "github.com/nimbus-ci/nimbus"
)

// TestAPIURL: what people write for the address of an API, and where its pages
// are.
func TestAPIURL(t *testing.T) {
	t.Parallel()
	for written, want := range map[string]struct {
		api, pages string
		enterprise bool
	}{
		"":                                   {"https://api.github.com", "https://github.com", false},
		"https://api.github.com/":            {"https://api.github.com", "https://github.com", false},
		"https://github.com":                 {"https://api.github.com", "https://github.com", false},
		"https://www.GitHub.com/":            {"https://api.github.com", "https://github.com", false},
		"https://acme.ghe.com":               {"https://api.acme.ghe.com", "https://acme.ghe.com", false},
		"https://api.acme.ghe.com":           {"https://api.acme.ghe.com", "https://acme.ghe.com", false},
		"https://github.example.com/api/v3/": {"https://github.example.com/api/v3", "https://github.example.com", true},
		"https://github.example.com":         {"https://github.example.com/api/v3", "https://github.example.com", true},
		"https://github.example.com:8443":    {"https://github.example.com:8443/api/v3", "https://github.example.com:8443", true},
		"https://api.example.com/api/v3":     {"https://api.example.com/api/v3", "https://api.example.com", true},
		"http://127.0.0.1:4000":              {"http://127.0.0.1:4000", "http://127.0.0.1:4000", true},
	} {
		api := APIURL(written)
		if api != want.api || IsEnterpriseServer(written) != want.enterprise {
			t.Errorf("%q is %q, of an Enterprise Server: %v", written, api, IsEnterpriseServer(written))
		}
		if pages, err := webAddress(written); err != nil || pages != want.pages {
			t.Errorf("the pages of %q are at %q: %v", written, pages, err)
		}
	}
}

func TestBadAPIs(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"api.github.com", "ftp://github.example.com/api/v3", "https://", "http://github.example.com/api/v3", "http://github.example.com",
		"https://me:hunter2@github.example.com/api/v3", "https://github.example.com/api/v3?token=hunter2", "://", "javascript:alert(1)"} {
		err := checkAPI(APIURL(bad))
		if nimbus.ErrorCode(err) != nimbus.CodeInvalid || nimbus.ErrorHint(err) == "" {
			t.Errorf("%q: %v", bad, err)
		}
		if _, err := webAddress(bad); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
			t.Errorf("the pages of %q: %v", bad, err)
		}
		if err != nil && strings.Contains(err.Error(), "me:hunter2") {
			t.Errorf("a password is shown: %v", err)
		}
	}
}
