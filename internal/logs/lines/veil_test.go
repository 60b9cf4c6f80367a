package lines

import (
	"encoding/base64"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestVeil cuts a text in every way: what is shown never holds a secret, and is
// otherwise all of it.
func TestVeil(t *testing.T) {
	t.Parallel()
	secrets := []string{"hunter2hunter3", "hunter2", "per2hunt", "aaaa", "s3cr3t\nline2"}
	for text, want := range map[string]string{
		"nothing":                       "nothing",
		"a hunter2 and hunter2hunter3.": "a *** and ***.",
		"hunter":                        "hunter",
		"superper2hunter2 x":            "super*** x",
		"aaaaaaa":                       "***",
		"s3cr3t\r\nline2":               "***\r\n***",
		"hunhunter2":                    "hun***",
	} {
		for range 200 {
			var v Veil
			for _, s := range secrets {
				v.Mask(s)
			}
			var got strings.Builder
			for rest := text; rest != ""; {
				n := 1 + rand.IntN(len(rest))
				got.WriteString(v.Write(rest[:n]))
				rest = rest[n:]
			}
			got.WriteString(v.Flush())
			if got.String() != want {
				t.Fatalf("%q became %q, want %q", text, got.String(), want)
			}
		}
	}
}

// TestVeilKnowsWhatItShowed: a row of what a secret is encoded as comes in two pieces,
// too short to be told from other text by themselves. So do two that are none.
func TestVeilKnowsWhatItShowed(t *testing.T) {
	t.Parallel()
	const secret = "of all that is secret this is the most secret of all"
	row := base64.StdEncoding.EncodeToString([]byte(secret))[24:42]
	for n := range len(row) {
		var v Veil
		v.Mask(secret)
		got := v.Write("before\n"+row[:n]) + v.Write(row[n:]) + v.Write("\n") + v.Flush()
		shown, hid := strings.CutSuffix(got, "***\n")
		shown, told := strings.CutPrefix(shown, "before\n")
		if !hid || !told || len(shown) >= window+keepEach-1 || !strings.HasPrefix(row[:n], shown) {
			t.Errorf("%q and %q became %q", row[:n], row[n:], got)
		}
	}
	var v Veil
	v.Mask(secret)
	if got, want := v.Write(row[:8])+v.Flush()+v.Write(row[8:])+v.Flush(), row; got != want {
		t.Errorf("two texts became %q, want %q", got, want)
	}
}

// TestVeilKeepsLittleBack, whatever comes.
func TestVeilKeepsLittleBack(t *testing.T) {
	t.Parallel()
	var v Veil
	v.Mask("aaaa")
	for range 200 {
		v.Write(strings.Repeat("a", 4000))
		if len(v.held) > maxHeld+4000 {
			t.Fatalf("it holds %d bytes", len(v.held))
		}
	}
	v = Veil{}
	v.Mask("secret")
	if got := v.Write("plain text\n"); got != "plain text\n" {
		t.Errorf("of a text without secrets only %q is shown at once", got)
	}
}
