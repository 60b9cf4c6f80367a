// Package terminal writes for people: colours where they are wanted, progress
// of what takes long, and nobody else's control characters.
package terminal

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/mattn/go-isatty"
)

// Style colours text for a terminal, and leaves it alone for anything else.
// The zero value leaves it alone.
type Style struct{ on bool }

// StyleOf looks at where w leads to. NO_COLOR (no-color.org) turns colours off.
func StyleOf(w io.Writer) Style {
	f, ok := w.(*os.File)
	return Style{on: ok && isatty.IsTerminal(f.Fd()) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

func (s Style) paint(code, text string) string {
	if !s.on {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// Bold is what a reader looks for.
func (s Style) Bold(text string) string { return s.paint("1", text) }

// Quiet is what is there for completeness.
func (s Style) Quiet(text string) string { return s.paint("2", text) }

// Good is a success.
func (s Style) Good(text string) string { return s.paint("32", text) }

// Warn wants to be noticed.
func (s Style) Warn(text string) string { return s.paint("33", text) }

// Bad is a failure.
func (s Style) Bad(text string) string { return s.paint("31", text) }

// Step heads what follows.
func (s Style) Step(text string) string { return s.paint("1;36", text) }

// Tag tells the nth of several things apart.
func (s Style) Tag(n int, text string) string {
	return s.paint([]string{"34", "35", "36", "32", "33", "94", "95", "96"}[n%8], text)
}

// Count is a number of things, each called one, in words: 1 job, 2 jobs.
func Count(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}

// OneLine makes somebody else's text fit for one line of a terminal: nothing in
// it may move the cursor or change the colours.
func OneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text)
}

// Progress tells what is going on, each second from the first on, until stop.
// On a terminal it keeps to one line, which stop wipes. stop may be called more
// than once.
func Progress(w io.Writer, now func() string) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var shown sync.WaitGroup
	shown.Go(func() { show(ctx, w, now) })
	return func() { cancel(); shown.Wait() }
}

func show(ctx context.Context, w io.Writer, now func() string) {
	const wipe = "\r\x1b[K"
	style, wrote, last := StyleOf(w), false, ""
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			if wrote && style.on {
				fmt.Fprint(w, wipe)
			}
			return
		case <-tick.C:
		}
		text := now()
		if style.on {
			fmt.Fprint(w, wipe+style.Quiet(text))
		} else if text != last {
			fmt.Fprintln(w, text)
		}
		wrote, last = true, text
	}
}
