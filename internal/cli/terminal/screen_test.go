package terminal

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestATerminalGetsColoursAndNothingElse(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"":                                    "",
		"plain \t text, ünï 日本　x":             "plain \t text, ünï 日本　x",
		"👩\u200d💻":                            "👩\u200d💻",
		"\x1b[1;31mred\x1b[0m \x1b[mend":      "\x1b[1;31mred\x1b[0m \x1b[mend",
		"\x1b[31mred\x1b[0;1mbold":            "\x1b[31mred\x1b[0;1mbold\x1b[0m",
		"\x1b[38;5;8mgrey":                    "\x1b[38;5;8mgrey\x1b[0m",
		"\x1b[48;2;8;8;8;1mdark":              "\x1b[48;2;8;8;8;1mdark\x1b[0m",
		"\x1b[38:5:8mgrey":                    "\x1b[38:5:8mgrey\x1b[0m",
		"\x1b[8mhidden\x1b[28m":               "hidden\x1b[28m\x1b[0m",
		"\x1b[1;08;4mhidden":                  "\x1b[1;4mhidden\x1b[0m",
		"\x1b[8:1mhidden":                     "hidden",
		"\x1b[38;8mhidden":                    "\x1b[38mhidden\x1b[0m",
		"\x1b[38;5;1;8mhidden":                "\x1b[38;5;1mhidden\x1b[0m",
		"a\x1b]52;c;cm0gLXJmIC8=\ab":          "ab",
		"a\x1b]0;title\x1b\\b":                "ab",
		"a\u009d0;title\u009cb":               "ab",
		"a\x1bPq#0\x1b\\b\x1b_x\x1b\\c":       "abc",
		"a\x1b]0;never ended":                 "a",
		"a\x1b[2Jb\x1b[1;1Hc\x1b[?1049hd":     "abcd",
		"a\x1b[>4;2mb\x1b[?8mc\x1b[1 qd":      "abcd",
		"a\u009b31mb":                         "ab",
		"a\x1bcb\x1b(0c\x1b7d\x1b":            "abcd",
		"a\x1b\x1b[31mb\x1b[31\x1b[32mc":      "a\x1b[31mb\x1b[32mc\x1b[0m",
		"10%\r20%\b\v\a\x00\u0085\u202eend":   "10% 20%      end",
		"a\xffb\xc3":                          "a\ufffdb\ufffd",
		"a\ufffd\x1b[2Jb":                     "a\ufffdb",
		"\x1b[31" + strings.Repeat(";1", 999): "",
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

// FuzzShown: whatever a job writes, no control character but that of a style
// comes through, and no text is shown in another place than its own.
func FuzzShown(f *testing.F) {
	f.Add("\x1b[31mred\x1b[8mx\x1b]52;c;\a\u009b\xff\x1b")
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
