package lines

import (
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/nimbus-ci/nimbus"
)

// mixes are the ways in which each notation may write a character.
var mixes = []func(c string) []string{
	func(c string) []string {
		out := []string{c, percent(c, ""), strings.ToLower(percent(c, ""))}
		if c == " " {
			out = append(out, "+")
		}
		return out
	},
	func(c string) []string {
		ascii := asciiOnly(c)
		if c[0] < 0x80 {
			ascii = fmt.Sprintf(`\u%04x`, c[0])
		}
		out := []string{ascii, strings.ReplaceAll(strings.ToUpper(ascii), `\U`, `\u`)}
		if c == `"` || c == "/" {
			return append(out, `\`+c)
		}
		return append(out, c)
	},
	func(c string) []string {
		return []string{c, fmt.Sprintf("&#%d;", []rune(c)[0]), fmt.Sprintf("&#x%X;", []rune(c)[0])}
	},
}

// TestEveryMixOfEscapesIsFound, whichever characters a writer escapes, and whatever
// other secrets there are; the terminal shows none either, however it is cut.
func TestEveryMixOfEscapesIsFound(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		secrets := rapid.SliceOfN(rapid.StringMatching(`[ab/" é😀]{0,4}[ab/"é😀]{4}`), 1, 5).Draw(t, "secrets")
		m, v := masks{}, Veil{}
		for _, s := range secrets {
			m.add(s)
			v.Mask(s)
			if rapid.Bool().Draw(t, "settled") {
				m.youngBytes = youngForms + 1
				m.prepare()
			}
		}
		mix := rapid.SampledFrom(mixes).Draw(t, "notation")
		plain := strings.TrimLeft(rapid.StringMatching(`[ab/" é]{0,6}`).Draw(t, "before"), " ") + rapid.SampledFrom(secrets).Draw(t, "secret") + rapid.StringMatching(`[ab/" é]{0,6}`).Draw(t, "after")
		var text strings.Builder
		from := make([]int, 0, len(plain)+1)
		for _, r := range plain {
			for range len(string(r)) {
				from = append(from, text.Len())
			}
			text.WriteString(rapid.SampledFrom(mix(string(r))).Draw(t, "written"))
		}
		from = append(from, text.Len())
		found, _ := m.find(text.String())
		var terminal strings.Builder
		for rest := text.String(); rest != ""; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "piece")
			terminal.WriteString(v.Write(rest[:n]))
			rest = rest[n:]
		}
		terminal.WriteString(v.Flush())
		for _, s := range secrets {
			for i := range plain {
				if !strings.HasPrefix(plain[i:], s) {
					continue
				}
				first, last := from[i], from[i+len(s)]
				hidden := false
				for _, f := range found {
					hidden = hidden || f.from <= first && f.to >= last
				}
				if !hidden {
					t.Fatalf("%q at %d to %d of %q is shown: %v", s, first, last, text.String(), found)
				}
				if strings.Contains(terminal.String(), text.String()[first:last]) {
					t.Fatalf("the terminal shows %q of %q: %q", s, text.String(), terminal.String())
				}
			}
		}
	})
}

// TestWrittenByPrograms: what a tester saw.
func TestWrittenByPrograms(t *testing.T) {
	t.Parallel()
	for secret, all := range map[string][]string{
		"pa:ss=wo/rd+é": {
			"pa%3Ass%3Dwo/rd%2B%C3%A9", "pa%3Ass=wo%2Frd+%C3%A9", "pa:ss=wo/rd+%C3%A9", `pa:ss=wo\/rd+\u00e9`, `pa:ss=wo/rd\u002B\u00E9`,
			`pa:ss=wo/rd+\xc3\xa9`, `pa:ss=wo/rd+\303\251`, "pa&#58;ss=wo&#x2F;rd&#43;&#233;", `pa:ss\=wo/rd\+é`,
		},
		"S3cr3t/Val+ue=QUX9": {"S3cr3t/Val%2Bue%3DQUX9", "S3cr3t%2FVal+ue=QUX9", `S3cr3t\/Val\u002Bue=QUX9`, `S3cr3t/Val\u002bue\u003dQUX9`},
	} {
		for _, written := range all {
			s := newSplitter()
			s.Mask(secret)
			if got := s.Write(nimbus.StreamStdout, []byte("a "+written+" b\n")); got[0].Text != "a *** b" {
				t.Errorf("%q is shown as %q", written, got[0].Text)
			}
		}
	}
}

// TestRows: of what a secret is encoded as, no row shows a piece that is long enough,
// whatever stands before it and wherever rows end.
func TestRows(t *testing.T) {
	t.Parallel()
	for range 500 {
		secret := make([]byte, 20+rand.IntN(200))
		for i := range secret {
			secret[i] = byte(' ' + 1 + rand.IntN(90))
		}
		before := strings.Repeat("u", rand.IntN(60))
		s := newSplitter()
		s.Mask(string(secret))
		width := 4 * (4 + rand.IntN(30))
		whole := base64.StdEncoding.EncodeToString([]byte(before + string(secret) + "zz"))
		if width%3 == 0 {
			whole = fmt.Sprintf("%x", before+string(secret)+"zz")
		}
		var shown strings.Builder
		for _, l := range s.Write(nimbus.StreamStdout, []byte(wrap(whole, width))) {
			shown.WriteString(l.Text + "\n")
		}
		// Its first and last characters are not all its own.
		first, last := (len(before)*8+5)/6, (len(before)+len(secret))*8/6
		if width%3 == 0 {
			first, last = len(before)*2, (len(before)+len(secret))*2
		}
		for from := first; from+minPiece <= last; from++ {
			if piece := whole[from : from+minPiece]; strings.Contains(shown.String(), piece) {
				t.Fatalf("%q shows %q of %q, in rows of %d", shown.String(), piece, whole, width)
			}
		}
	}
}

// TestOrdinaryTextIsNotHidden by pieces and escapes.
func TestOrdinaryTextIsNotHidden(t *testing.T) {
	t.Parallel()
	s := newSplitter()
	for i := range 100 {
		s.Mask(fmt.Sprintf("https://hooks.example.com/services/T%03d/x%040d", i, i))
	}
	for _, text := range []string{
		`{"msg":"C:\\Users\\new\ttable 50%","url":"https://hooks.example.com/services/?q=a%20b&amp;c"}`, `\`, "%", "&", "%2", `\u00`, "&amp", "a+b%", "100 %\\",
		"/usr/lib/python3/dist-packages/numpy/core/include/numpy/arrayobject.h",
		base64.StdEncoding.EncodeToString([]byte("what is no secret, and long enough to look like one")),
	} {
		if got := s.Write(nimbus.StreamStdout, []byte(text+"\n")); got[0].Text != text {
			t.Errorf("%q became %q", text, got[0].Text)
		}
	}
}

// TestWindowsAreBounded: beyond, secrets are hidden but in pieces.
func TestWindowsAreBounded(t *testing.T) {
	t.Parallel()
	var m masks
	secret := func(i int) string { return fmt.Sprintf("%x", sha512.Sum512([]byte(fmt.Sprint(i)))) }
	for i := range 900 {
		m.add(secret(i))
	}
	if n := len(m.rows.places); n > maxWindows || n < maxWindows*9/10 {
		t.Errorf("%d windows", n)
	}
	if got := m.hide(secret(899)); got != hidden {
		t.Errorf("the last is shown: %q", got)
	}
}
