package cli

import (
	"io"
	"os"
	"strings"
	"unicode"

	"github.com/mattn/go-isatty"

	"github.com/nimbus-ci/nimbus"
)

// style colours text for a terminal, and leaves it alone for anything else.
type style struct{ on bool }

// newStyle looks at where w leads to. NO_COLOR (no-color.org) turns colours off.
func newStyle(w io.Writer) style {
	f, ok := w.(*os.File)
	return style{on: ok && isatty.IsTerminal(f.Fd()) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

func (s style) paint(code, text string) string {
	if !s.on {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s style) bold(text string) string  { return s.paint("1", text) }
func (s style) quiet(text string) string { return s.paint("2", text) }
func (s style) good(text string) string  { return s.paint("32", text) }
func (s style) warn(text string) string  { return s.paint("33", text) }
func (s style) bad(text string) string   { return s.paint("31", text) }
func (s style) step(text string) string  { return s.paint("1;36", text) }

// status is a job's state, or how it ended.
func (s style) status(j nimbus.Job) string {
	switch {
	case j.Result == nimbus.ResultSuccess:
		return s.good(string(j.Result))
	case j.Result == nimbus.ResultCancelled:
		return s.warn(string(j.Result))
	case j.Result != "":
		return s.bad(string(j.Result))
	case j.State == nimbus.StateUnschedulable:
		return s.warn(string(j.State))
	}
	return string(j.State)
}

// oneLine makes somebody else's text fit for one line of a terminal: nothing in
// it may move the cursor or change the colours.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text)
}
