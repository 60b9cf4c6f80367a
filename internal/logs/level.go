package logs

import "strings"

// levelWindow is how much of a line is looked at for its level: whoever says how
// grave a line is says it near its start, and the longest lines are the dearest.
const levelWindow = 160

// longestCommand is the length of the longest name of a command that tells a level.
const longestCommand = len("warning")

// LevelOf reads how grave a line is from its text: GitHub's workflow commands
// (::error::, ##[warning]), a "level" of JSON or logfmt, and the words in capitals
// with which programs begin their lines ("ERROR", "[WARN]", "I/INFO:"). What says
// nothing of the sort has none; words in small letters are prose.
func LevelOf(text string) Level {
	if l := command(text); l != LevelNone {
		return l
	}
	text = text[:min(len(text), levelWindow)]
	for rest := text; ; {
		i := strings.Index(rest, "evel") // of level, loglevel, Level, @level
		if i < 0 {
			break
		}
		rest = rest[i+len("evel"):]
		if l := levelNamed(strings.TrimLeft(rest, "\"' \t=:")); l != LevelNone && len(rest) > 0 && strings.ContainsRune("\"'=:", rune(rest[0])) {
			return l
		}
	}
	return capitals(text)
}

// command is the level of a workflow command that the line is: one that is whole, in
// large letters or small, as GitHub's runner takes it. The web app and the command line
// label lines by the same rule, which testdata/commands.json holds them to.
func command(text string) Level {
	text = strings.TrimLeft(text, " \t")
	ends := "::"
	rest, ok := strings.CutPrefix(text, ends)
	if !ok {
		if rest, ok = strings.CutPrefix(text, "##["); !ok {
			return LevelNone
		}
		ends = "]"
	}
	n := 0
	for n < len(rest) && n <= longestCommand && rest[n]|0x20 >= 'a' && rest[n]|0x20 <= 'z' {
		n++
	}
	var level Level
	switch name := rest[:n]; {
	case strings.EqualFold(name, "error"):
		level = LevelError
	case strings.EqualFold(name, "warning"):
		level = LevelWarn
	case strings.EqualFold(name, "notice"):
		level = LevelInfo
	case strings.EqualFold(name, "debug"):
		level = LevelDebug
	default:
		return LevelNone
	}
	if rest = rest[n:]; strings.HasPrefix(rest, ends) || strings.HasPrefix(rest, " ") && strings.Contains(rest, ends) {
		return level
	}
	return LevelNone
}

// levelNamed is the level that a value begins with, however it is written.
func levelNamed(value string) Level {
	for _, n := range [...]struct {
		name  string
		level Level
	}{
		{"error", LevelError}, {"fatal", LevelError}, {"crit", LevelError}, {"panic", LevelError}, {"err", LevelError},
		{"warn", LevelWarn}, {"info", LevelInfo}, {"notice", LevelInfo}, {"debug", LevelDebug}, {"trace", LevelDebug},
	} {
		if len(value) >= len(n.name) && strings.EqualFold(value[:len(n.name)], n.name) {
			return n.level
		}
	}
	return LevelNone
}

// capitals is the level of the first word in capitals that names one.
func capitals(text string) Level {
	for i := 0; i < len(text); {
		if text[i] < 'A' || text[i] > 'Z' {
			i++
			continue
		}
		start := i
		for i < len(text) && text[i] >= 'A' && text[i] <= 'Z' {
			i++
		}
		if start > 0 && wordByte(text[start-1]) || i < len(text) && wordByte(text[i]) {
			continue
		}
		switch text[start:i] {
		case "ERROR", "ERR", "FATAL", "PANIC", "CRITICAL":
			return LevelError
		case "WARN", "WARNING":
			return LevelWarn
		case "INFO", "NOTICE":
			return LevelInfo
		case "DEBUG", "TRACE":
			return LevelDebug
		}
	}
	return LevelNone
}

// wordByte tells whether a byte makes a longer word of the capitals beside it.
// The m that ends a color is none.
func wordByte(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' && c != 'm'
}
