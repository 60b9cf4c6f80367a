package terminal

import (
	"strings"
	"unicode"
)

// Line is a line of a job's log as somebody reads it there: a workflow command of
// GitHub's as what it says, any other as Shown. Anything but a terminal gets it as it is.
// The dashboard shows the same (web/src/log/commands.ts), and the server reads levels of
// the same commands (internal/logs/level.go).
func (s Screen) Line(line string) string {
	if !s.terminal {
		return line
	}
	c, ok := commandOf(line)
	if !ok {
		return s.Shown(line)
	}
	style := Style{on: s.colours}
	label := ""
	switch c.name {
	case "add-mask": // while commands are stopped it may come so far
		return "::add-mask::***"
	case "command":
		return style.paint("34", s.Shown(c.text))
	case "group":
		return style.Bold("▾ " + s.Shown(c.text))
	case "endgroup":
		return style.Quiet(s.Shown(line))
	case "error":
		label = style.Bad("Error:")
	case "warning":
		label = style.Warn("Warning:")
	case "notice":
		label = style.paint("34", "Notice:")
	case "debug":
		label = style.Quiet("Debug:")
	}
	out := label + " "
	if c.title != "" {
		out += style.Bold(s.Shown(oneLine(c.title))) + ": "
	}
	out += s.Shown(oneLine(c.text))
	if c.where != "" {
		out += style.Quiet(" — " + s.Shown(oneLine(c.where)))
	}
	return out
}

// command is a workflow command, as far as it is something to read.
type command struct {
	name, title, where, text string
}

// maxProperties is how much of what a command says beside its text is looked at.
const maxProperties = 4096

// commandOf reads "::error file=a.go,line=3::text" as jobs write it, "##[error]text" as
// GitHub's runner hands it on, and "[command]text" as its toolkit tells what it starts.
// https://docs.github.com/actions/reference/workflow-commands-for-github-actions
func commandOf(line string) (c command, ok bool) {
	line = strings.TrimLeft(line, " \t")
	const started = "[command]"
	if len(line) >= len(started) && strings.EqualFold(line[:len(started)], started) {
		return command{name: "command", text: line[len(started):]}, true
	}
	escaped := true
	rest, ok := strings.CutPrefix(line, "::")
	var head string
	if ok {
		head, c.text, ok = strings.Cut(rest, "::")
	} else if rest, ok = strings.CutPrefix(line, "##["); ok {
		escaped = false // what the runner hands on is not, any more
		head, c.text, ok = strings.Cut(rest, "]")
	}
	if !ok {
		return command{}, false
	}
	name, properties, _ := strings.Cut(head, " ")
	switch c.name = strings.ToLower(name); c.name {
	case "error", "warning", "notice", "debug":
		if escaped {
			c.read(properties[:min(len(properties), maxProperties)])
		}
	case "command", "add-mask", "group", "endgroup":
	default:
		return command{}, false
	}
	if escaped {
		c.text = unescape(c.text, "%25", "%", "%0D", "\r", "%0A", "\n")
	}
	return c, true
}

// read is for what a command says beside its text.
func (c *command) read(properties string) {
	file, line, column := "", "", ""
	for pair := range strings.SplitSeq(properties, ",") {
		key, value, _ := strings.Cut(pair, "=")
		value = strings.TrimSpace(unescape(value, "%25", "%", "%0D", "\r", "%0A", "\n", "%3A", ":", "%2C", ","))
		switch strings.ToLower(strings.TrimSpace(key)) {
		case "file":
			file = value
		case "line":
			line = value
		case "col":
			column = value
		case "title":
			c.title = value
		}
	}
	if line == "" {
		column = ""
	}
	for _, part := range []string{file, line, column} {
		if part == "" {
			continue
		}
		if c.where != "" {
			c.where += ":"
		}
		c.where += part
	}
}

// unescape undoes what GitHub's toolkit does to values.
func unescape(text string, pairs ...string) string {
	return strings.NewReplacer(pairs...).Replace(text)
}

// oneLine has the lines of a text follow each other.
func oneLine(text string) string {
	text = strings.TrimRightFunc(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(text), unicode.IsSpace)
	return strings.ReplaceAll(text, "\n", " ⏎ ")
}
