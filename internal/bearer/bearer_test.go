package bearer

import (
	"crypto/ed25519"
	"strings"
	"testing"
)

// FuzzParse: no input makes it fail otherwise than by its error.
func FuzzParse(f *testing.F) {
	f.Add(New(Host))
	f.Add("nbs__" + strings.Repeat("0", secretLength+checksumLength))
	f.Fuzz(func(t *testing.T, s string) {
		kind, err := Parse(s)
		if err == nil && !strings.HasPrefix(s, prefix+kind+"_") {
			t.Fatalf("%q is of kind %q", s, kind)
		}
	})
}

// TestAClaimIsWhatItsHostSigned: no part of it can be exchanged, and no other
// key makes it.
func TestAClaimIsWhatItsHostSigned(t *testing.T) {
	t.Parallel()
	public, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	c := Claim{HostID: "host_1", Number: 7, TokenHash: Hash(New(Host))}
	signature := c.Sign(key)
	if !c.SignedBy(public, signature) {
		t.Error("its own signature is refused")
	}
	for _, changed := range []Claim{
		{"host_2", c.Number, c.TokenHash}, {c.HostID, 8, c.TokenHash}, {c.HostID, c.Number, Hash(New(Host))},
	} {
		if changed.SignedBy(public, signature) {
			t.Errorf("%+v passes with the signature of another claim", changed)
		}
	}
	if c.SignedBy(other, signature) || c.SignedBy(nil, signature) || c.SignedBy(public, nil) {
		t.Error("a key or a signature that is not the host's passes")
	}
}
