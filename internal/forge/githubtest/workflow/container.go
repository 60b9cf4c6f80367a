package workflow

import (
	"regexp"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/nimbus-ci/nimbus/internal/forge/githubtest/protocol"
)

// maxMapped bounds ports and volumes of a container.
const maxMapped = 64

// alias is a name that a service can have in a network.
var alias = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)

// services reads those of a job, in the file's order.
func (r *reader) services(n node) []protocol.Container {
	entries := r.entries(n)
	if len(entries) > maxServices {
		r.failf(n, "the job has %d services, more than %d", len(entries), maxServices)
		return nil
	}
	var out []protocol.Container
	for _, e := range entries {
		if !alias.MatchString(e.key) {
			r.failf(e.at, "%q is no name of a service", e.key)
		}
		if c := r.container(e.value); c != nil {
			c.Alias = e.key
			out = append(out, *c)
		}
	}
	return out
}

// container reads a mapping, or the name of an image alone.
func (r *reader) container(n node) *protocol.Container {
	c := &protocol.Container{}
	if _, name := n.Node.(*ast.StringNode); name {
		c.Image = r.text(n)
	} else {
		r.fields(n, map[string]func(node){
			"image":   func(n node) { c.Image = r.text(n) },
			"env":     func(n node) { c.Env = r.env(n) },
			"ports":   func(n node) { c.Ports = r.mapped(n) },
			"volumes": func(n node) { c.Volumes = r.mapped(n) },
			"options": func(n node) { c.Options = r.words(n) },
		})
	}
	if c.Image == "" {
		r.failf(n, "a container needs an image")
		return nil
	}
	return c
}

// mapped reads ports or volumes.
func (r *reader) mapped(n node) []string {
	var out []string
	for _, item := range r.items(n, maxMapped) {
		out = append(out, r.text(item))
	}
	return out
}

// words splits options as a shell would that knows quotes and nothing else.
func (r *reader) words(n node) []string {
	var out []string
	var word strings.Builder
	begun, quote := false, rune(0)
	for _, c := range r.text(n) {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			begun, quote = true, c
		case quote == 0 && strings.ContainsRune(" \t\n", c):
			if begun {
				out = append(out, word.String())
			}
			word.Reset()
			begun = false
		default:
			begun = true
			word.WriteRune(c)
		}
	}
	if quote != 0 {
		r.failf(n, "the quote %q is not closed", quote)
	}
	if begun {
		out = append(out, word.String())
	}
	return out
}
