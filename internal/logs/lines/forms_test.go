package lines

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/nimbus-ci/nimbus"
)

// writers are ways in which programs write a text.
var writers = map[string]func(string) string{
	"plain":          func(s string) string { return s },
	"base64":         func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
	"base64 URL":     func(s string) string { return base64.URLEncoding.EncodeToString([]byte(s)) },
	"base64 raw":     func(s string) string { return base64.RawStdEncoding.EncodeToString([]byte(s)) },
	"echo | base64":  func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s + "\n")) },
	"basic auth":     func(s string) string { return base64.StdEncoding.EncodeToString([]byte("user:" + s)) },
	"basic auth 2":   func(s string) string { return base64.StdEncoding.EncodeToString([]byte("me:" + s + ":x")) },
	"basic auth 3":   func(s string) string { return base64.StdEncoding.EncodeToString([]byte("ab:x" + s + "yz")) },
	"base64 -w76":    func(s string) string { return wrap(base64.StdEncoding.EncodeToString([]byte(s)), 76) },
	"openssl base64": func(s string) string { return wrap(base64.StdEncoding.EncodeToString([]byte(s)), 64) },
	"query":          url.QueryEscape,
	"path":           url.PathEscape,
	"query, lower":   func(s string) string { return lowerEscapes(url.QueryEscape(s)) },
	"hex":            func(s string) string { return hex.EncodeToString([]byte(s)) },
	"HEX":            func(s string) string { return fmt.Sprintf("%X", s) },
	"JSON":           func(s string) string { return marshal(s, false) },
	"JSON for HTML":  func(s string) string { return marshal(s, true) },
	"JSON in ASCII":  func(s string) string { return asciiOnly(marshal(s, false)) },
	"JSON of PHP":    func(s string) string { return strings.ReplaceAll(marshal(s, false), "/", `\/`) },
	"XML": func(s string) string {
		var b bytes.Buffer
		_ = xml.EscapeText(&b, []byte(s))
		return b.String()
	},
	"set -x":    func(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" },
	"the lines": func(s string) string { return strings.ReplaceAll(s, "\n", "\n  > ") },
	"trimmed":   strings.TrimSpace,

	"quote of Python": func(s string) string { return percent(s, "_.-~/") },
	"quote_plus":      func(s string) string { return strings.ReplaceAll(percent(s, "_.-~/ "), " ", "+") },
	"userinfo of Go":  func(s string) string { return strings.TrimPrefix(url.UserPassword("", s).String(), ":") },
	"encodeURI":       func(s string) string { return percent(s, "-_.!~*'();/?:@&=+$,#") },
	"json_encode of PHP": func(s string) string {
		return asciiOnly(strings.ReplaceAll(marshal(s, false), "/", `\/`))
	},
	"JSON of .NET": func(s string) string {
		var b strings.Builder
		for _, r := range s {
			switch {
			case strings.ContainsRune(`"&'+<>`+"`", r), r > 0x7e && r < 0x10000:
				fmt.Fprintf(&b, `\u%04X`, r)
			case r >= 0x10000:
				b.WriteString(strings.ReplaceAll(strings.ToUpper(asciiOnly(string(r))), `\U`, `\u`))
			case r == '\n':
				b.WriteString(`\n`)
			case r == '\\':
				b.WriteString(`\\`)
			default:
				b.WriteRune(r)
			}
		}
		return b.String()
	},
	"bytes of Python": func(s string) string {
		var b strings.Builder
		for _, c := range []byte(s) {
			if c < ' ' || c > 0x7e || c == '\\' || c == '\'' {
				fmt.Fprintf(&b, `\x%02x`, c)
			} else {
				b.WriteByte(c)
			}
		}
		return b.String()
	},
	"HTML of Python": func(s string) string {
		return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&#x27;", "/", "&#47;").Replace(s)
	},
	"base64 -w 100":          func(s string) string { return wrap(base64.StdEncoding.EncodeToString([]byte(s)), 100) },
	"base64 -w 40":           func(s string) string { return wrap(base64.StdEncoding.EncodeToString([]byte("x"+s)), 40) },
	"user: in base64 -w76":   func(s string) string { return wrap(base64.StdEncoding.EncodeToString([]byte("user:"+s)), 76) },
	"user: in base64 -w64":   func(s string) string { return wrap(base64.URLEncoding.EncodeToString([]byte("user1:"+s)), 64) },
	"user: in base64 -w76 2": func(s string) string { return wrap(base64.StdEncoding.EncodeToString([]byte("user42:"+s)), 76) },
	"xxd -p":                 func(s string) string { return wrap(hex.EncodeToString([]byte(s)), 60) },
	"user: in xxd -p":        func(s string) string { return wrap(fmt.Sprintf("%X", "user:"+s), 60) },
	"base64 in a URL":        func(s string) string { return url.QueryEscape(base64.StdEncoding.EncodeToString([]byte(s))) },
}

// percent escapes all but letters, digits and what is safe.
func percent(s, safe string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte(safe, c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

func wrap(s string, width int) string {
	var b strings.Builder
	for chunk := range slices.Chunk([]byte(s), width) {
		b.Write(append(chunk, '\n'))
	}
	return b.String()
}

func marshal(s string, html bool) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(html)
	if err := enc.Encode(s); err != nil {
		panic(err)
	}
	return strings.TrimSpace(b.String())
}

// cores is what of a written secret must not be seen, line by line. In base64, the
// first and last characters have a part of what is beside it, and are not all its own.
func cores(writer, written string) (out []string) {
	own := 0
	if strings.Contains(writer, "bas") || strings.Contains(writer, "user:") {
		own = 8
	}
	for line := range strings.Lines(written) {
		if line = strings.Trim(line, "\r\n >\"'|"); len(line) >= 20 {
			out = append(out, line[own:len(line)-own])
		}
	}
	return out
}

var secretText = rapid.OneOf(
	rapid.StringMatching(`[a-zA-Z0-9+/=_.~-]{24,90}`),
	rapid.StringMatching(`[!-~]{4}[ -~]{20,90}`), // a blank one is none
	rapid.StringMatching(`[a-zäöü€😀<>&"'/\\]{24,60}`),
	rapid.Map(rapid.SliceOfN(rapid.StringMatching(`[A-Za-z0-9+/]{64}`), 1, 20), func(lines []string) string {
		return "-----BEGIN KEY-----\n" + strings.Join(lines, "\n") + "\n-----END KEY-----\n"
	}),
	rapid.StringMatching(`\{\n  "key": "[a-z0-9]{30}",\n  "more": "[A-Z&<>/]{20}"\n\}`),
)

// TestNoFormIsSeen: whatever a job writes of a secret, however it is cut into
// pieces, on lines and on a terminal.
func TestNoFormIsSeen(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		secret := secretText.Draw(t, "secret")
		name := rapid.SampledFrom(slices.Sorted(maps.Keys(writers))).Draw(t, "writer")
		written := writers[name](secret)
		text := "before|" + written + "|after\n"
		s, v := newSplitter(), Veil{}
		s.Mask(secret)
		v.Mask(secret)
		var shown, terminal strings.Builder
		show := func(lines []nimbus.Line) {
			for _, l := range lines {
				shown.WriteString(l.Text + "\n")
			}
		}
		for rest := []byte(text); len(rest) > 0; {
			n := min(len(rest), rapid.IntRange(1, 200).Draw(t, "piece"))
			show(s.Write(nimbus.StreamStdout, rest[:n]))
			terminal.WriteString(v.Write(string(rest[:n])))
			rest = rest[n:]
		}
		show(s.Flush())
		terminal.WriteString(v.Flush())
		for _, core := range cores(name, written) {
			for where, got := range map[string]string{"log": shown.String(), "terminal": terminal.String()} {
				if strings.Contains(got, core) {
					t.Fatalf("%s: the %s shows %q of %q: %q", name, where, core, secret, got)
				}
			}
		}
		if !strings.HasPrefix(shown.String(), "before|") || !strings.HasSuffix(shown.String(), "|after\n") {
			t.Fatalf("what is no secret is hidden: %q", shown.String())
		}
	})
}

// TestFindIsAsPlainSearch: the automaton finds what a search for each text finds.
func TestFindIsAsPlainSearch(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		texts := rapid.SliceOfN(rapid.StringMatching(`[ab]{1,6}|[a-c]{2,4}`), 1, 12).Draw(t, "texts")
		text := rapid.StringMatching(`[abcd]{0,60}`).Draw(t, "text")
		m := masks{texts: texts[:rapid.IntRange(0, len(texts)).Draw(t, "old")], youngBytes: youngForms + 1}
		m.find(text) // those are settled
		m.texts = texts
		got, begun := m.find(text)
		hit := make([]bool, len(text))
		for _, x := range texts {
			for i := range text {
				if strings.HasPrefix(text[i:], x) {
					for k := range x {
						hit[i+k] = true
					}
				}
			}
		}
		seen := make([]bool, len(text))
		for i, s := range got {
			if i > 0 && got[i-1].to > s.from {
				t.Fatalf("spans overlap: %v", got)
			}
			for k := s.from; k < s.to; k++ {
				seen[k] = true
			}
		}
		if !slices.Equal(hit, seen) {
			t.Fatalf("%q in %q: %v", texts, text, got)
		}
		longest := 0
		for _, x := range texts {
			for n := 1; n < len(x); n++ {
				if strings.HasSuffix(text, x[:n]) {
					longest = max(longest, n)
				}
			}
		}
		if begun != longest {
			t.Fatalf("%q may begin with the last %d bytes of %q, not %d", texts, longest, text, begun)
		}
	})
}

// TestMasksAreBounded: a job can't have its host's memory by asking for much to be
// hidden, and is told where that ends.
func TestMasksAreBounded(t *testing.T) {
	t.Parallel()
	s := newSplitter()
	s.Mask("registered-secret")
	told := 0
	for i := range 3 * maxMasks {
		for _, l := range s.Write(nimbus.StreamStdout, fmt.Appendf(nil, "::add-mask::%d-%s\n", i, strings.Repeat("x", 500))) {
			if l.Text == tooManyMasks && l.Stream == nimbus.StreamSystem {
				told++
			}
		}
	}
	if len(s.masks.secrets) > maxMasks || s.masks.bytes > maxForms {
		t.Errorf("%d secrets with %d bytes", len(s.masks.secrets), s.masks.bytes)
	}
	if told != 1 {
		t.Errorf("told %d times", told)
	}
	if got := s.Write(nimbus.StreamStdout, []byte("a registered-secret\n")); got[0].Text != "a ***" {
		t.Errorf("a registered secret is shown: %q", got[0].Text)
	}
	// One that is too long for all its forms is hidden as it is.
	s = newSplitter()
	long := strings.Repeat("0123456789abcdef", 1<<12)[:60_000]
	if !s.Mask(long) {
		t.Fatal("a long secret is not hidden")
	}
	if got := s.Write(nimbus.StreamStdout, []byte(long+"\n")); len(got) != 1 || got[0].Text != "***" {
		t.Errorf("%d lines, %.40q", len(got), got[0].Text)
	}
}

// TestGroups counts them, in one another, in the forms of jobs and of GitHub's runner.
func TestGroups(t *testing.T) {
	t.Parallel()
	s := newSplitter()
	text := `none
::group::one
in one
##[group]two
in two
::endgroup::
in one again
##[endgroup]
none
::endgroup::
none
::stop-commands::pause-7
::group::not one
::add-mask::visible
::nimbus-step::not one either
::pause-7::
none visible
::group::three
::nimbus-step::a step
none
`
	var got []string
	for _, l := range s.Write(nimbus.StreamStdout, []byte(text)) {
		got = append(got, fmt.Sprintf("%d/%d %s", l.Step, l.Group, l.Text))
	}
	want := strings.Split(`0/0 none
0/1 ::group::one
0/1 in one
0/2 ##[group]two
0/2 in two
0/2 ::endgroup::
0/1 in one again
0/1 ##[endgroup]
0/0 none
0/0 ::endgroup::
0/0 none
0/0 ::stop-commands::pause-7
0/0 ::group::not one
0/0 ::add-mask::visible
0/0 ::nimbus-step::not one either
0/0 ::pause-7::
0/0 none visible
0/3 ::group::three
1/0 a step
1/0 none`, "\n")
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
	// They may be in one another without end.
	s.Write(nimbus.StreamStdout, bytes.Repeat([]byte("::group::deep\n"), 10_000))
	if n := len(s.State().Open); n > maxDepth {
		t.Errorf("%d groups are open", n)
	}
}

// TestCommandsOfStderr are followed as those of stdout are, and what they have hidden
// is hidden in both.
func TestCommandsOfStderr(t *testing.T) {
	t.Parallel()
	s := newSplitter()
	if got := s.Write(nimbus.StreamStderr, []byte("::add-mask::from-stderr\n")); len(got) != 0 {
		t.Errorf("the command is shown: %q", got[0].Text)
	}
	for _, stream := range []nimbus.Stream{nimbus.StreamStdout, nimbus.StreamStderr} {
		if got := s.Write(stream, []byte("a from-stderr\n")); got[0].Text != "a ***" {
			t.Errorf("%s shows %q", stream, got[0].Text)
		}
	}
	s.Write(nimbus.StreamStderr, []byte("::group::x\n"))
	if got := s.Write(nimbus.StreamStdout, []byte("in x\n")); got[0].Group != 1 {
		t.Error("stderr begins no group")
	}
	s.Write(nimbus.StreamStderr, []byte("::stop-commands::t\n"))
	if got := s.Write(nimbus.StreamStdout, []byte("::add-mask::shown\n")); len(got) != 1 {
		t.Error("a command is followed though they were stopped")
	}
}

// TestRunnersStepsBegin though a job had GitHub's commands stopped: that holds for
// its step.
func TestRunnersStepsBegin(t *testing.T) {
	t.Parallel()
	s := NewSplitter(fixedClock{}, 0, State{Runner: true})
	got := s.Write(nimbus.StreamStdout, []byte("::stop-commands::t\n::add-mask::shown\n::nimbus-step::next\n::add-mask::hidden\nshown hidden\n"))
	if last := got[len(got)-1]; last.Step != 1 || last.Text != "shown ***" {
		t.Errorf("%+v", got)
	}
}

// TestSplitterGoesOn from any byte as if it had never stopped.
func TestSplitterGoesOn(t *testing.T) {
	t.Parallel()
	text := []byte("a\n::add-mask::hide-me\n::group::g\nsome hide-me\n::nimbus-step::s\n::group::h\n::stop-commands::x\n::endgroup::\n::x::\nlast hide-me ::")
	whole := newSplitter()
	want := append(whole.Write(nimbus.StreamStdout, text), whole.Flush()...)
	for cut := range text {
		first := newSplitter()
		got := first.Write(nimbus.StreamStdout, text[:cut])
		raw, err := json.Marshal(first.State())
		if err != nil {
			t.Fatal(err)
		}
		var st State
		if err := json.Unmarshal(raw, &st); err != nil {
			t.Fatal(err)
		}
		second := NewSplitter(fixedClock{}, first.Last(), st)
		got = append(append(got, second.Write(nimbus.StreamStdout, text[cut:])...), second.Flush()...)
		if !slices.Equal(got, want) {
			t.Fatalf("cut at %d: %v, want %v", cut, got, want)
		}
	}
}
