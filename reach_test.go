package nimbus

import (
	"strings"
	"testing"
)

func TestNames(t *testing.T) {
	t.Parallel()
	names, err := NamesOf("Example.com", "*.example.org.", "example.com", "a.b-c.xn--p1ai")
	if err != nil || names != "*.example.org a.b-c.xn--p1ai example.com" {
		t.Fatalf("%q, %v", names, err)
	}
	for name, want := range map[string]bool{
		"example.com": true, "EXAMPLE.com.": true, "a.example.org": true, "b.a.Example.org": true,
		"example.org": false, "www.example.com": false, "badexample.com": false, "evilexample.org": false, ".example.org": false, "": false,
		"example.com.evil.net": false, "com": false,
	} {
		if got := names.Match(name); got != want {
			t.Errorf("%q is in: %v", name, got)
		}
	}
	for other, want := range map[Names]string{
		"": "", "example.com": "", "*.example.org": "", "files.example.org": "", "*.files.example.org example.com": "",
		"*.example.com": "*.example.com", "*.org": "*.org", "example.com zzz.net": "zzz.net",
	} {
		if got := names.Beyond(other); got != want {
			t.Errorf("of %q, %q is beyond, want %q", other, got, want)
		}
	}
	for _, bad := range []string{
		"", "localhost", "*", "*.", "*.com", "a..b", "-a.com", "a-.com", "https://a.com", "a.com/b", "a.com:80", "a b.com", "10.0.0.1", "*.0.0.1", "[::1]",
		"a.*.com", "**.a.com", "ä.com", "a.com\n", strings.Repeat("a", 64) + ".com", strings.Repeat("a.", 127) + "com",
	} {
		if _, err := NamesOf(bad); ErrorCode(err) != CodeInvalid {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if s := Names("a.a b.b c.c d.d e.e f.f").String(); s != "a.a, b.b, c.c, d.d and 2 more" {
		t.Error(s)
	}
}
