package demo

import (
	"fmt"
	"io"
	"sync"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
)

// screen is written to by all jobs at once, a line at a time.
type screen struct {
	mu    sync.Mutex
	out   io.Writer
	style terminal.Style
	jobs  int
}

func (s *screen) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.out, format+"\n", args...)
}

// voice is how one job speaks: with its name before each line.
type voice struct {
	screen *screen
	prefix string
}

// tagWidth is how much room names of jobs get.
const tagWidth = 10

func (s *screen) voice(name string) voice {
	s.mu.Lock()
	defer s.mu.Unlock()
	tag := s.style.Tag(s.jobs, fmt.Sprintf("%-*s", tagWidth, terminal.OneLine(name)))
	s.jobs++
	return voice{screen: s, prefix: tag + s.style.Quiet(" │ ")}
}

func (v voice) line(l nimbus.Line) {
	text := terminal.OneLine(l.Text)
	switch l.Stream {
	case nimbus.StreamStep:
		text = v.screen.style.Step("▸ " + text)
	case nimbus.StreamSystem:
		text = v.screen.style.Quiet(text)
	case nimbus.StreamStderr:
		text = v.screen.style.Warn(text)
	case nimbus.StreamStdout:
		text = "  " + text
	}
	v.screen.say("%s%s", v.prefix, text)
}

func (v voice) note(format string, args ...any) {
	v.screen.say("%s%s", v.prefix, v.screen.style.Quiet(fmt.Sprintf(format, args...)))
}
