package terminal

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/nimbus-ci/nimbus"
)

func TestATerminalGetsColoursAndNothingElse(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"":                                           "",
		"plain \t text, ünï 日本　x":                    "plain \t text, ünï 日本　x",
		"👩\u200d💻":                                   "👩\u200d💻",
		"\x1b[1;31mred\x1b[0m \x1b[mend":             "\x1b[1;31mred\x1b[0m \x1b[mend",
		"\x1b[31mred\x1b[0;1mbold":                   "\x1b[31mred\x1b[0;1mbold\x1b[0m",
		"\x1b[38;5;8mgrey":                           "\x1b[38;5;8mgrey\x1b[0m",
		"\x1b[48;2;8;8;8;1mdark":                     "\x1b[48;2;8;8;8;1mdark\x1b[0m",
		"\x1b[38:5:8mgrey":                           "\x1b[38:5:8mgrey\x1b[0m",
		"\x1b[8mhidden\x1b[28m":                      "hidden\x1b[28m\x1b[0m",
		"\x1b[1;08;4mhidden":                         "\x1b[1;4mhidden\x1b[0m",
		"\x1b[8:1mhidden":                            "hidden",
		"\x1b[38;8mhidden":                           "\x1b[38mhidden\x1b[0m",
		"\x1b[38;5;1;8mhidden":                       "\x1b[38;5;1mhidden\x1b[0m",
		"a\x1b]52;c;cm0gLXJmIC8=\ab":                 "ab",
		"a\x1b]0;title\x1b\\b":                       "ab",
		"a\u009d0;title\u009cb":                      "ab",
		"a\x1bPq#0\x1b\\b\x1b_x\x1b\\c":              "abc",
		"a\x1b]0;never ended":                        "a",
		"a\x1b]0;cut\x1b[31mb\x18c":                  "a\x1b[31mbc\x1b[0m",
		"a\x1b]0;cut\x18b\x1bPx\x1b":                 "ab",
		"a\x1b]8;;https://x.test/\x1b\\b\x1b]8;;\ac": "abc",
		"a\x1b[2Jb\x1b[1;1Hc\x1b[?1049hd":            "abcd",
		"a\x1b[>4;2mb\x1b[?8mc\x1b[1 qd":             "abcd",
		"a\u009b31mb":                                "ab",
		"a\x1bcb\x1b(0c\x1b7d\x1b":                   "abcd",
		"a\x1b\x1b[31mb\x1b[31\x1b[32mc":             "a\x1b[31mb\x1b[32mc\x1b[0m",
		"10%\r20%\b\v\a\x00\u0085\u202eend":          "20 end",
		"a\xffb\xc3":                                 "a\ufffdb\ufffd",
		"a\ufffd\x1b[2Jb":                            "a\ufffdb",
		"\x1b[31" + strings.Repeat(";1", 999):        "",
	} {
		got := Screen{terminal: true, colours: true}.Shown(line)
		if got != want || !utf8.ValidString(got) {
			t.Errorf("%q is shown as %q, want %q", line, got, want)
		}
		if got := (Screen{}).Shown(line); got != line {
			t.Errorf("%q is written to a file as %q", line, got)
		}
	}
	if got := (Screen{terminal: true}).Shown("\x1b[31mred\x1b[0m"); got != "red" {
		t.Errorf("a terminal without colours gets %q", got)
	}
	if got := ScreenOf(&bytes.Buffer{}); got.terminal || got.colours {
		t.Errorf("a buffer is %+v", got)
	}
}

// TestATerminalIsToldWhatALineCameTo: as a terminal would have shown it that did all of
// it. The dashboard's tests have the same lines.
func TestATerminalIsToldWhatALineCameTo(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"done\r":                            "done",
		"done\r\r":                          "done",
		" 10%\r 50%\r100%":                  "100%",
		"a longer one\rshort":               "shortger one",
		"a longer one\r\x1b[Kshort":         "short",
		"a longer one\rshort\x1b[K":         "short",
		"a longer one\x1b[2K\rshort":        "short",
		"a longer one\x1b[1K\rshort":        "short",
		"abcdef\x1b[3D\x1b[1Kx":             "   xef",
		"abcdef\x1b[4Gx\x1b[1Cy":            "abcxey",
		"ab\b\bcd\b\b\b\be":                 "ed",
		"[\x1b[3C]":                         "[   ]",
		"a\tb\rc":                           "c       b",
		"日本\rx":                             "x 本",
		"日本\x1b[2Gx":                        " x本",
		"ab日\r日c":                           "日c",
		"✅ a\r❌ b":                          "❌ b",
		"e\u0301x\ry":                       "yx",
		"ex\re\u0301":                       "e\u0301x",
		"\x1b[31mred\x1b[0m\rb":             "b\x1b[31med\x1b[0m",
		"\x1b[31mred\x1b[39mx\r\x1b[1;4mb":  "\x1b[1;4mb\x1b[0m\x1b[31med\x1b[0mx",
		"\x1b[38;5;9;1mx\x1b[22my\rz":       "\x1b[38;5;9mz" + "y\x1b[0m",
		"x\x1b[31m\x1b[Ky":                  "x\x1b[31my\x1b[0m",
		"gone\r    ":                        "",
		"\x1b[9999999999999999999Cx\x1b[Dy": strings.Repeat(" ", maxMoved) + "y",
	} {
		got := Screen{terminal: true, colours: true}.Shown(line)
		if got != want {
			t.Errorf("%q is shown as %q, want %q", line, got, want)
		}
	}
	if got := (Screen{terminal: true}).Shown("\x1b[31mred\rb"); got != "bed" {
		t.Errorf("a terminal without colours gets %q", got)
	}
}

// TestAHostileLineIsDrawnInBoundedTime: each of its escapes may touch the whole line.
func TestAHostileLineIsDrawnInBoundedTime(t *testing.T) {
	t.Parallel()
	for _, again := range []string{"\x1b[1K", "\x1b[2Kx", "\r\t", "\x1b[9999Cx", "\x1b[1m\r", "\x1b]", "\x1b[", "a\u0301\b"} {
		line := strings.Repeat("a", nimbus.MaxLineBytes/2)
		line += strings.Repeat(again, nimbus.MaxLineBytes/2/len(again))
		var sh sheet
		for rest := line; rest != ""; {
			var text, sequence string
			text, sequence, rest = cut(rest)
			for _, r := range text {
				sh.write(r)
			}
			if m, ok := moveOf(sequence); ok {
				sh.move(m)
			}
		}
		if most := maxTouched + 2*nimbus.MaxLineBytes; sh.touched > most {
			t.Errorf("%q: %d cells were filled or erased", again, sh.touched)
		}
		if got := (Screen{terminal: true, colours: true}).Shown(line); len(got) > 40*nimbus.MaxLineBytes {
			t.Errorf("%q: a line of %d bytes is shown as %d", again, len(line), len(got))
		}
	}
}

// TestLinesOfCommands: GitHub's workflow commands are shown as what they say, and a pipe
// gets them as they are. The server and the dashboard read the same lines.
func TestLinesOfCommands(t *testing.T) {
	t.Parallel()
	var all []struct {
		Line  string `json:"line"`
		Shown string `json:"shown"`
	}
	if text, err := os.ReadFile("../../logs/testdata/commands.json"); err != nil || json.Unmarshal(text, &all) != nil || len(all) == 0 {
		t.Fatal(err, len(all))
	}
	for _, each := range all {
		if got := (Screen{terminal: true}).Line(each.Line); got != each.Shown {
			t.Errorf("%q is shown as %q, want %q", each.Line, got, each.Shown)
		}
		if got := (Screen{}).Line(each.Line); got != each.Line {
			t.Errorf("%q is written to a file as %q", each.Line, got)
		}
	}
	for line, want := range map[string]string{
		"::error title=\x1b]0;t\ax::a\x1b[2Jb\x1b[4mc": "\x1b[31mError:\x1b[0m \x1b[1mx\x1b[0m: ab\x1b[4mc\x1b[0m",
		"::group::Install": "\x1b[1m▾ Install\x1b[0m",
		"##[endgroup]":     "\x1b[2m##[endgroup]\x1b[0m",
	} {
		if got := (Screen{terminal: true, colours: true}).Line(line); got != want {
			t.Errorf("%q is shown as %q, want %q", line, got, want)
		}
	}
}

// TestLinesInPieces: what is written raw to a terminal does not drive it either, wherever
// it is cut.
func TestLinesInPieces(t *testing.T) {
	t.Parallel()
	const text, want = "a\x1b]52;c;eA==\ab\n\x1b[2J::error::x\n10%\r20%\nend\x1b[2J", "ab\n::error::x\n20%\nend"
	for n := range text {
		var out bytes.Buffer
		lines, end := Screen{terminal: true}.Lines(&out)
		for _, piece := range []string{text[:n], text[n:]} {
			if wrote, err := io.WriteString(lines, piece); err != nil || wrote != len(piece) {
				t.Fatal(wrote, err)
			}
		}
		if err := end(); err != nil || out.String() != want {
			t.Fatalf("cut at %d: %q, %v", n, out.String(), err)
		}
	}
	var out bytes.Buffer
	lines, end := Screen{}.Lines(&out)
	if _, err := io.WriteString(lines, text); err != nil || end() != nil || out.String() != text {
		t.Errorf("a file gets %q, %v", out.String(), err)
	}
}

func TestJSONDrivesNoTerminal(t *testing.T) {
	t.Parallel()
	for terminal, want := range map[bool]string{true: `"a\u001b\u009d\u007fü"` + "\n", false: "\"a\\u001b\u009d\x7fü\"\n"} {
		var out bytes.Buffer
		if err := json.NewEncoder(Screen{terminal: terminal}.JSON(&out)).Encode("a\x1b\u009d\x7fü"); err != nil || out.String() != want {
			t.Errorf("a terminal %t: %q, want %q, %v", terminal, out.String(), want, err)
		}
	}
}

// FuzzShown: whatever a job writes, no control character but that of a style
// comes through, and no text is shown in another place than its own.
func FuzzShown(f *testing.F) {
	f.Add("\x1b[31mred\x1b[8mx\x1b]52;c;\a\u009b\xff\x1b")
	f.Add("日\u0301本\r\x1b[31;1mx\x1b[22m\b\x1b[1K\x1b[5C\ty")
	f.Fuzz(func(t *testing.T, line string) {
		got := Screen{terminal: true, colours: true}.Shown(line)
		for i, r := range got {
			switch {
			case r == '\x1b':
				end := strings.IndexByte(got[i:], 'm')
				if end < 0 || !strings.HasPrefix(got[i:], "\x1b[") || strings.Trim(got[i+2:i+end], "0123456789;:") != "" {
					t.Fatalf("%q is shown as %q", line, got)
				}
			case !visible(r):
				t.Fatalf("%q is shown as %q", line, got)
			}
		}
		if again := (Screen{terminal: true, colours: true}).Shown(got); again != got {
			t.Fatalf("%q is shown as %q, and that as %q", line, got, again)
		}
	})
}
