package migrate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"

	"github.com/nimbus-ci/nimbus"
)

// MaxFile bounds a workflow file; GitHub's own bound is 512 KiB.
const MaxFile = 1 << 20

var byteOrderMark = []byte("\xef\xbb\xbf") //nolint:gochecknoglobals // a constant, but for the language

// Workflow looks at one workflow file. image is what the image of a sandbox
// has, by the names of Debian's packages. Codes: invalid, too_large.
func Workflow(path string, text []byte, size Size, image []string) (File, error) {
	if len(text) > MaxFile {
		return File{}, nimbus.Errorf(nimbus.CodeTooLarge, "%s is larger than %d KiB", path, MaxFile>>10)
	}
	// The parser takes it for a character of the first key.
	if rest, ok := bytes.CutPrefix(text, byteOrderMark); ok && !bytes.HasPrefix(rest, byteOrderMark) {
		f, err := Workflow(path, rest, size, image)
		f.Before, f.After = text, slices.Concat(byteOrderMark, f.After)
		return f, err
	}
	root, err := parse(path, text)
	if err != nil {
		return File{}, err
	}
	jobs, line := root.get("jobs")
	if line == 0 {
		return File{}, nimbus.Errorf(nimbus.CodeInvalid, "%s: a workflow file has jobs", path)
	}
	out := File{Path: path, Before: text, After: text}
	m := mover{source: newSource(text), size: size, image: image, aliases: aliases{}, replaced: map[string]int{}}
	ast.Walk(m.aliases, root.Node)
	pairs := jobs.pairs()
	out.Jobs = make([]Job, len(pairs))
	for _, last := range []bool{false, true} { // whether one that others refer to may change depends on them
		for i, p := range pairs {
			if _, anchored := p.runsOn().Node.(*ast.AnchorNode); anchored == last {
				out.Jobs[i] = m.job(p)
			}
		}
	}
	out.After = apply(text, m.edits)
	return out, sameButRunsOn(path, out)
}

// mover looks at the jobs of one file, and gathers what to change.
type mover struct {
	source source
	size   Size
	image  []string
	edits  []edit

	aliases  aliases
	replaced map[string]int // aliases that are written out, by name
}

func (p pair) runsOn() tree {
	value, _ := p.value.get("runs-on")
	return value
}

func (m *mover) job(p pair) Job {
	j := Job{ID: p.key, Line: p.line, Verdict: Stays, Notes: []Note{}}
	switch v := p.value.Node.(type) {
	case *ast.AliasNode:
		j.note(p.line, "it is another job by reference (*"+v.Value.GetToken().Value+")", "")
		return j
	case *ast.AnchorNode:
		if name := v.Name.GetToken().Value; m.aliases[name] > 0 {
			j.note(p.line, "the whole job is referred to elsewhere (*"+name+")", "write its labels by hand")
			return j
		}
	}
	if uses, line := p.value.get("uses"); line > 0 {
		called, _ := uses.text()
		j.Verdict = Calls
		j.note(line, "it calls "+called, "the jobs in that file say where they run")
		return j
	}
	runsOn, line := p.value.get("runs-on")
	if line == 0 {
		j.note(p.line, "it has no runs-on", "")
		return j
	}
	before, simple := runsOn.words()
	j.Before = strings.Join(before, ", ")
	if simple && isNimbus(before) {
		j.Verdict = Already
		return j
	}
	blockers := m.blockers(p.value)
	c := m.rewrite(p.value, runsOn, before, simple)
	if c.why != "" {
		blockers = append([]Note{{Line: line, Message: c.why}}, blockers...)
	}
	if len(blockers) > 0 {
		j.Notes = blockers
		return j
	}
	j.Verdict, j.After = Moves, c.after
	for _, reason := range c.kept {
		j.note(line, "some of the matrix stays at GitHub: "+reason, "")
	}
	j.Notes = append(j.Notes, m.differences(p.value)...)
	m.edits = append(m.edits, c.edits...)
	if alias, ok := runsOn.Node.(*ast.AliasNode); ok {
		m.replaced[alias.Value.GetToken().Value]++
	}
	return j
}

// change is how runs-on is rewritten.
type change struct {
	edits []edit
	after string
	why   string   // it can't be; the rest is empty then
	kept  []string // why some values of a matrix stay what they are
}

func (j *Job) note(line int, message, hint string) {
	j.Notes = append(j.Notes, Note{Line: line, Message: message, Hint: hint})
}

func (m *mover) rewrite(job, runsOn tree, before []string, simple bool) change {
	if !simple {
		return change{why: "runs-on names a group: write its labels by hand"}
	}
	if anchor, ok := runsOn.Node.(*ast.AnchorNode); ok {
		if name := anchor.Name.GetToken().Value; m.aliases[name] != m.replaced[name] {
			return change{why: fmt.Sprintf("its runs-on is referred to elsewhere (*%s), where it has to stay what it is", name)}
		}
		runsOn = runsOn.of(anchor.Value)
	}
	if len(before) == 1 && strings.Contains(before[0], "${{") {
		return m.rewriteExpression(job, runsOn, before[0])
	}
	to, why := target(before, m.size)
	if why != "" {
		return change{why: why}
	}
	return changed(flow(to), nil)(m.source.replaceLabels(runsOn, to))
}

// changed is a change, or why it can't be made.
func changed(after string, kept []string) func([]edit, error) change {
	return func(edits []edit, err error) change {
		if err != nil {
			return change{why: err.Error()}
		}
		return change{edits: edits, after: after, kept: kept}
	}
}

var matrixVariable = regexp.MustCompile(`^\$\{\{\s*matrix\.([A-Za-z_][A-Za-z0-9_-]*)\s*\}\}$`)

// rewriteExpression is for a runs-on that a matrix fills in. Values that move
// are looked up; all others go on to be what they were.
func (m *mover) rewriteExpression(job, runsOn tree, expression string) change {
	match := matrixVariable.FindStringSubmatch(expression)
	if match == nil {
		return change{why: fmt.Sprintf("what %s is, is known only when it runs", expression)}
	}
	values, ok := matrixValues(job, match[1])
	if !ok || len(values) == 0 {
		return change{why: fmt.Sprintf("the values of matrix.%s are not written in this file", match[1])}
	}
	table := map[string][]string{}
	var kept []string
	for _, v := range values {
		to, why := target([]string{v}, m.size)
		if why == "" {
			table[v] = to
		} else {
			kept = append(kept, why)
		}
	}
	if len(table) == 0 {
		return change{why: strings.Join(kept, "; ")}
	}
	after, ok := allAlike(table)
	if !ok || len(kept) > 0 {
		after = lookup(match[1], table)
	}
	return changed(after, kept)(m.source.replaceValue(runsOn, after))
}

// allAlike is the list of labels that all values have.
func allAlike(table map[string][]string) (string, bool) {
	first := ""
	for _, to := range table {
		if text := flow(to); first == "" || first == text {
			first = text
			continue
		}
		return "", false
	}
	return first, true
}

// lookup is an expression that gives each value its labels.
func lookup(variable string, table map[string][]string) string {
	var entries []string
	for _, v := range slices.Sorted(maps.Keys(table)) {
		key, _ := json.Marshal(v) // strings never fail
		to, _ := json.Marshal(table[v])
		entries = append(entries, string(key)+":"+string(to))
	}
	all := strings.ReplaceAll("{"+strings.Join(entries, ",")+"}", "'", "''")
	return fmt.Sprintf("${{ fromJSON('%s')[matrix.%s] || matrix.%s }}", all, variable, variable)
}

// matrixValues are all values that a variable of a job's matrix can have.
func matrixValues(job tree, variable string) (values []string, ok bool) {
	strategy, _ := job.get("strategy")
	matrix, _ := strategy.get("matrix")
	list, line := matrix.get(variable)
	if line > 0 {
		if values, ok = list.words(); !ok {
			return nil, false
		}
	}
	include, _ := matrix.get("include")
	for _, item := range include.items() {
		if v, line := item.get(variable); line > 0 {
			text, scalar := v.text()
			if !scalar {
				return nil, false
			}
			values = append(values, text)
		}
	}
	for _, v := range values {
		if strings.Contains(v, "${{") {
			return nil, false
		}
	}
	return values, true
}

// sameButRunsOn holds the rewritten file against the one before: nothing but
// runs-on of the jobs that move may mean something else.
func sameButRunsOn(path string, f File) error {
	before, err := meaning(f.Before)
	if err != nil {
		return nimbus.Errorf(nimbus.CodeInvalid, "%s: %w", path, err)
	}
	after, err := meaning(f.After)
	if err != nil {
		return fmt.Errorf("%s could not be rewritten: %w", path, err)
	}
	for _, j := range f.Jobs {
		if j.Verdict == Moves {
			drop(before, j.ID)
			drop(after, j.ID)
		}
	}
	if !reflect.DeepEqual(before, after) {
		return fmt.Errorf("%s could not be rewritten without changing more than runs-on", path)
	}
	return nil
}

func meaning(text []byte) (map[string]any, error) {
	var out map[string]any
	return out, yaml.Unmarshal(text, &out)
}

func drop(workflow map[string]any, id string) {
	jobs, _ := workflow["jobs"].(map[string]any)
	if job, ok := jobs[id].(map[string]any); ok {
		delete(job, "runs-on")
	}
}
