package s3_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob/s3"
)

func TestConfig(t *testing.T) {
	t.Parallel()
	good := s3.Config{Endpoint: "https://s3.example.org", Bucket: "nimbus", CredentialsFile: credentialsFile(t, "key", "s3cret")}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("[default]\naws_access_key_id = only-s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(c *s3.Config){
		"":                      func(*s3.Config) {},
		" with a prefix":        func(c *s3.Config) { c.Prefix = "a/b/" },
		" at localhost":         func(c *s3.Config) { c.Endpoint = "http://localhost:9000" },
		" at a loopback":        func(c *s3.Config) { c.Endpoint = "http://[::1]:9000/" },
		"no endpoint":           func(c *s3.Config) { c.Endpoint = "" },
		"a host alone":          func(c *s3.Config) { c.Endpoint = "s3.example.org" },
		"plain http":            func(c *s3.Config) { c.Endpoint = "http://s3.example.org" },
		"another scheme":        func(c *s3.Config) { c.Endpoint = "ftp://localhost" },
		"a password":            func(c *s3.Config) { c.Endpoint = "https://user:s3cret@s3.example.org" },
		"a path":                func(c *s3.Config) { c.Endpoint = "https://s3.example.org/bucket" },
		"a query":               func(c *s3.Config) { c.Endpoint = "https://s3.example.org?s3cret" },
		"no bucket":             func(c *s3.Config) { c.Bucket = "" },
		"a bucket with a slash": func(c *s3.Config) { c.Bucket = "a/b" },
		"a bucket in capitals":  func(c *s3.Config) { c.Bucket = "Nimbus" },
		"a prefix without end":  func(c *s3.Config) { c.Prefix = "a" },
		"a prefix that climbs":  func(c *s3.Config) { c.Prefix = "../" },
		"a long prefix":         func(c *s3.Config) { c.Prefix = strings.Repeat("a/", 129) },
		"small parts":           func(c *s3.Config) { c.PartBytes = 1 << 20 },
		"huge parts":            func(c *s3.Config) { c.PartBytes = 1 << 30 },
		"negative puts":         func(c *s3.Config) { c.Puts = -1 },
		"negative times":        func(c *s3.Config) { c.IdleTimeout = -time.Second },
		"no credentials file":   func(c *s3.Config) { c.CredentialsFile += "-not-there" },
		"half the credentials":  func(c *s3.Config) { c.CredentialsFile = empty },
		"no CA file":            func(c *s3.Config) { c.CAFile = "/not/there" },
		"an empty CA file":      func(c *s3.Config) { c.CAFile = empty },
	} {
		cfg := good
		edit(&cfg)
		s, err := s3.Open(cfg)
		if name == "" || name[0] == ' ' {
			if err != nil {
				t.Errorf("a good one%s: %v", name, err)
				continue
			}
			s.Close()
			continue
		}
		if nimbus.ErrorCode(err) != nimbus.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error()+nimbus.ErrorHint(err), "s3cret") {
			t.Errorf("%s: the error tells a secret: %v", name, err)
		}
	}
}

func TestCredentialsOfTheEnvironment(t *testing.T) {
	cfg := s3.Config{Endpoint: "https://s3.example.org", Bucket: "nimbus"}
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	if _, err := s3.Open(cfg); nimbus.ErrorCode(err) != nimbus.CodeInvalid || nimbus.ErrorHint(err) == "" {
		t.Errorf("without any: %v", err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "key")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	s, err := s3.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}
