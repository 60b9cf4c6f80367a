package workflow

import (
	"maps"
	"slices"
	"strings"

	"github.com/nimbus-ci/nimbus/internal/forge/githubtest/protocol"
)

// pair is one variable of a matrix with one of its values.
type pair struct{ name, value string }

// variant is one combination of a matrix, its variables in the file's order.
type variant []pair

// strategy reads strategy.matrix. fail-fast has to be said and false: the
// double doesn't cancel a matrix's other jobs, which is GitHub's default.
func (r *reader) strategy(n node) []variant {
	out := []variant{nil}
	patient := false
	r.fields(n, map[string]func(node){
		"fail-fast": func(n node) { patient = !r.boolean(n) },
		"matrix": func(n node) {
			for _, e := range r.entries(n) {
				if e.key == "include" || e.key == "exclude" {
					r.failf(e.value, "matrix.%s is not supported", e.key)
				}
				out = r.multiply(n, out, e.key, r.list(e.value))
			}
		},
	})
	if !patient {
		r.failf(n, "strategy needs fail-fast: false, since the double does not cancel a matrix's other jobs")
	}
	return out
}

// multiply gives each variant every value.
func (r *reader) multiply(n node, in []variant, name string, values []string) []variant {
	if len(in)*len(values) > maxJobs {
		r.failf(n, "the matrix makes more than %d jobs", maxJobs)
		return in
	}
	var out []variant
	for _, v := range in {
		for _, value := range values {
			out = append(out, append(slices.Clone(v), pair{name, value}))
		}
	}
	return out
}

// expand makes one job per variant and puts the values in; what is still an
// expression then is refused.
func (r *reader) expand(n node, job Job, matrix []variant) []Job {
	if len(matrix) == 0 {
		matrix = []variant{nil}
	}
	var out []Job
	for _, v := range matrix {
		fill := func(s string) string { return r.fill(n, s, v) }
		j := job
		if j.Name = fill(job.Name); len(v) > 0 && j.Name == job.Name {
			j.Name += " (" + v.String() + ")"
		}
		j.RunsOn = each(job.RunsOn, fill)
		j.Env = eachValue(job.Env, fill)
		j.Steps = nil
		for _, s := range job.Steps {
			s.Name, s.Run, s.WorkingDirectory = fill(s.Name), fill(s.Run), fill(s.WorkingDirectory)
			s.Env = eachValue(s.Env, fill)
			j.Steps = append(j.Steps, s)
		}
		out = append(out, j)
	}
	return out
}

// String is the values as GitHub shows them: "1, two".
func (v variant) String() string {
	var values []string
	for _, p := range v {
		values = append(values, p.value)
	}
	return strings.Join(values, ", ")
}

// fill replaces ${{ matrix.x }}.
func (r *reader) fill(n node, s string, v variant) string {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(s, "${{")
		out.WriteString(before)
		if !found {
			return out.String()
		}
		expression, after, closed := strings.Cut(rest, "}}")
		name, isMatrix := strings.CutPrefix(strings.TrimSpace(expression), "matrix.")
		i := slices.IndexFunc(v, func(p pair) bool { return p.name == name })
		if !closed || !isMatrix || i < 0 {
			r.failf(n, "the expression ${{%s}} is not supported", expression)
			return s
		}
		out.WriteString(v[i].value)
		s = after
	}
}

// condition reads an `if`.
func (r *reader) condition(n node) protocol.Condition {
	s := r.text(n)
	if inner, ok := strings.CutPrefix(s, "${{"); ok {
		s = strings.TrimSuffix(inner, "}}")
	}
	c := protocol.Condition(strings.ReplaceAll(s, " ", ""))
	if !slices.Contains(protocol.Conditions(), c) {
		r.failf(n, "if: %q is not supported; the double knows %v", s, protocol.Conditions())
	}
	return c
}

func each(in []string, f func(string) string) []string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = f(s)
	}
	return out
}

func eachValue(in map[string]string, f func(string) string) map[string]string {
	out := maps.Clone(in)
	for k, v := range in {
		out[k] = f(v)
	}
	return out
}
