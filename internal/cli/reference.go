package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/nimbus-ci/nimbus/internal/flagrange"
)

//go:generate go test -run TestReferencePage -update .

// WriteReference writes the reference page, docs/cli.md, from the same structs
// that parse the command line.
func WriteReference(w io.Writer) error {
	p, err := parser(&root{}, Streams{Out: io.Discard, Err: io.Discard}, func(int) {})
	if err != nil {
		return fmt.Errorf("build the command line: %w", err)
	}
	r := &reference{w: w}
	r.line("<!-- Made by `go generate ./internal/cli` from the flags themselves: change those. -->")
	r.line("# Command line\n")
	r.line("%s\n", description)
	r.line("Data goes to stdout, information to stderr. `--json` makes both stable for programs: names in snake_case, times in RFC 3339,")
	r.line("errors as `{\"error\":{\"code\":…,\"message\":…,\"hint\":…}}` on stderr. Colours are for terminals; `NO_COLOR` turns them off.\n")
	r.line("## Exit codes\n\n| code | meaning |\n|---|---|")
	for _, c := range exitCodes {
		r.line("| %s | %s |", c.Code, c.Meaning)
	}
	r.line("\n## Flags of every command\n")
	r.flags(p.Model.Flags)
	for _, n := range p.Model.Leaves(true) {
		r.command(n)
	}
	return r.err
}

// reference writes until the first error.
type reference struct {
	w   io.Writer
	err error
}

func (r *reference) line(format string, args ...any) {
	if r.err == nil {
		_, r.err = fmt.Fprintf(r.w, format+"\n", args...)
	}
}

func (r *reference) command(n *kong.Node) {
	r.line("\n## nimbus %s\n", strings.TrimPrefix(n.Path(), "nimbus "))
	r.line("%s\n", n.Help)
	r.line("```\n%s\n```", "nimbus "+n.Summary())
	detail, examples, _ := strings.Cut(n.Detail, examplesTitle)
	if detail = strings.TrimSpace(detail); detail != "" {
		r.line("\n%s", detail)
	}
	if examples = strings.TrimSpace(examples); examples != "" {
		r.line("\n```sh")
		for line := range strings.Lines(examples) {
			r.line("%s", strings.TrimSpace(line))
		}
		r.line("```")
	}
	if len(n.Positional)+len(n.Flags) > 0 {
		r.line("")
	}
	for _, a := range n.Positional {
		r.line("- `%s`: %s", a.Summary(), a.Help)
	}
	r.flags(n.Flags)
}

func (r *reference) flags(flags []*kong.Flag) {
	for _, f := range flags {
		if f.Hidden {
			continue
		}
		name := f.String()
		if f.Tag.Negatable != "" {
			name = strings.Replace(name, "--", "--[no-]", 1)
		}
		text := strings.ReplaceAll(f.Help, "${enum}", f.Enum)
		if allowed := f.Tag.Get(flagrange.Tag); allowed != "" {
			text += " Allowed: " + flagrange.Words(allowed) + "."
		}
		if len(f.Envs) > 0 {
			text += " Environment: `" + strings.Join(f.Envs, "`, `") + "`."
		}
		r.line("- `%s`: %s", name, text)
	}
}
