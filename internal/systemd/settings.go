package systemd

import (
	"bufio"
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nimbus-ci/nimbus"
)

// Variables are settings of the agent, by the name of their environment variable.
type Variables map[string]string

// quoted are the characters that systemd wants a backslash before, inside of
// double quotes. See systemd.exec(5), EnvironmentFile.
var quoted = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "`", "\\`", `$`, `\$`)

// encode writes the file of settings.
func (v Variables) encode() ([]byte, error) {
	var out bytes.Buffer
	out.WriteString("# Settings of the Nimbus agent: nimbus agent run --help names them all.\n" +
		"# systemctl restart nimbus-agent has it read them; jobs that run go on.\n")
	for _, name := range slices.Sorted(maps.Keys(v)) {
		if strings.ContainsAny(v[name], "\n\x00") {
			return nil, nimbus.Errorf(nimbus.CodeInvalid, "%s has a line break, which a file of settings can't hold", name)
		}
		fmt.Fprintf(&out, "%s=\"%s\"\n", name, quoted.Replace(v[name]))
	}
	return out.Bytes(), nil
}

// decode reads a file of settings, as far as encode writes them and people edit
// them: a variable on each line, bare or in quotes.
func decode(text []byte) (Variables, error) {
	v := Variables{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok || name == "" {
			return nil, nimbus.Errorf(nimbus.CodeInvalid, "line %d of %s is no setting", n, Settings).WithHint("a setting looks like NAME=\"value\"")
		}
		v[strings.TrimSpace(name)] = unquote(strings.TrimSpace(value))
	}
	return v, lines.Err()
}

func unquote(s string) string {
	if len(s) < 2 || s[0] != s[len(s)-1] || s[0] != '"' && s[0] != '\'' {
		return s
	}
	inner := s[1 : len(s)-1]
	if s[0] == '\'' {
		return inner
	}
	var out strings.Builder
	for i := 0; i < len(inner); i++ {
		if inner[i] == '\\' && i+1 < len(inner) && strings.IndexByte("\\\"`$", inner[i+1]) >= 0 {
			i++
		}
		out.WriteByte(inner[i])
	}
	return out.String()
}
