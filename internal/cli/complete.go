package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/alecthomas/kong"

	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
)

// completeWord is what the scripts of `nimbus completion` ask with: the words
// of a command line follow, the last of which is begun and may be empty. The
// answer is a candidate a line, a tab, and what it is; none means files.
const completeWord = "__complete"

const (
	// completeTimeout bounds how long a shell waits for the server's part.
	completeTimeout = 2 * time.Second
	// completeJobs is how many of the newest jobs are candidates.
	completeJobs = 50
	// completeTag names in the tag of a field what the server knows of its values.
	completeTag = "complete"
)

// candidate is a word that may stand where the cursor is.
type candidate struct{ word, about string }

// complete answers a shell. What goes wrong has no candidates: the line that
// somebody is typing is no place for messages.
func (a *app) complete(ctx context.Context, p *kong.Kong, words []string) int {
	if len(words) == 0 {
		return ExitUsage
	}
	last := words[len(words)-1]
	l := line{node: p.Model.Node}
	for _, word := range words[:len(words)-1] {
		l.take(word)
	}
	found, ask := l.next(last)
	if ask != "" {
		found = append(found, a.known(ctx, p, l.global, ask)...)
	}
	flag, _, isValue := strings.Cut(last, "=")
	for _, c := range found {
		if isValue && strings.HasPrefix(flag, "--") {
			c.word = flag + "=" + c.word
		}
		// A word of another program's, which a shell would have to quote, is
		// left out.
		if strings.HasPrefix(c.word, last) && !strings.ContainsFunc(c.word, unfit) {
			about, _, _ := strings.Cut(c.about, ". ")
			fmt.Fprintf(a.Out, "%s\t%s\n", c.word, terminal.OneLine(about))
		}
	}
	return ExitOK
}

func unfit(r rune) bool {
	return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("-_.:/@+=%,", r)
}

// line is what the words of a command line mean, as far as it goes.
type line struct {
	node   *kong.Node
	args   int        // that the command has by now
	flag   *kong.Flag // whose value comes next
	ended  bool       // the rest is somebody else's command line
	global []string   // flags of every command
}

// take goes on by a word.
func (l *line) take(word string) {
	name, value, hasValue := strings.Cut(strings.TrimPrefix(word, "--"), "=")
	switch {
	case l.ended:
	case l.flag != nil:
		l.keep(l.flag, word)
		l.flag = nil
	case word == "--":
		l.ended = true
	case strings.HasPrefix(word, "-"):
		f := l.find(word, name)
		switch {
		case f == nil:
		case hasValue:
			l.keep(f, value)
		case !f.IsBool():
			l.flag = f
		case f.Group != nil && f.Group.Key == "global":
			l.global = append(l.global, word)
		}
	default:
		for _, child := range l.node.Children {
			if child.Name == word || slices.Contains(child.Aliases, word) {
				l.node, l.args = child, 0
				return
			}
		}
		l.args++
	}
}

// keep notes the value of a flag that says which server to ask.
func (l *line) keep(f *kong.Flag, value string) {
	if f.Group != nil && f.Group.Key == "global" {
		l.global = append(l.global, "--"+f.Name+"="+value)
	}
}

// next is what may come next, or what the server has to be asked for.
func (l *line) next(begun string) (found []candidate, ask string) {
	flag, _, hasValue := strings.Cut(strings.TrimPrefix(begun, "--"), "=")
	switch {
	case l.ended:
		return nil, ""
	case l.flag != nil:
		return values(l.flag.Value)
	case strings.HasPrefix(begun, "--") && hasValue:
		if f := l.find(begun, flag); f != nil {
			return values(f.Value)
		}
		return nil, ""
	case strings.HasPrefix(begun, "-"):
		for _, f := range l.flags() {
			if !f.Hidden {
				found = append(found, candidate{"--" + f.Name, f.Help})
			}
		}
		return found, ""
	}
	for _, child := range l.node.Children {
		if !child.Hidden {
			found = append(found, candidate{child.Name, child.Help})
		}
	}
	command := l.node
	if command.DefaultCmd != nil {
		command = command.DefaultCmd // its arguments may stand beside the names of the others
	}
	if args := command.Positional; len(args) > 0 && (l.args < len(args) || args[len(args)-1].IsCumulative()) {
		more, ask := values(args[min(l.args, len(args)-1)])
		return append(found, more...), ask
	}
	return found, ""
}

// values are those that a flag or an argument may have.
func values(v *kong.Value) (found []candidate, ask string) {
	for word := range strings.SplitSeq(v.Enum, ",") {
		if word != "" {
			found = append(found, candidate{word: word})
		}
	}
	return found, v.Tag.Get(completeTag)
}

// flags are those of the command, of the one that it stands for, and of all.
func (l *line) flags() (out []*kong.Flag) {
	if l.node.DefaultCmd != nil {
		out = append(out, l.node.DefaultCmd.Flags...)
	}
	for n := l.node; n != nil; n = n.Parent {
		out = append(out, n.Flags...)
	}
	return out
}

// find finds a flag by its name, or its letter.
func (l *line) find(word, name string) *kong.Flag {
	for _, f := range l.flags() {
		switch {
		case strings.HasPrefix(word, "--") && (f.Name == name || f.Tag.Negatable != "" && "no-"+f.Name == name):
			return f
		case f.Short != 0 && word == "-"+string(f.Short):
			return f
		}
	}
	return nil
}

// known asks the server that the line names.
func (a *app) known(ctx context.Context, p *kong.Kong, global []string, what string) []candidate {
	if _, err := p.Parse(append(global, "version")); err != nil { // it fills in the flags of every command
		return nil
	}
	cl, err := a.connect()
	if err != nil {
		return nil
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, completeTimeout)
	defer cancel()
	switch what {
	case "hosts":
		return knownHosts(ctx, cl)
	case "jobs":
		return knownJobs(ctx, cl)
	}
	return nil
}

// knownHosts are hosts by name, and by id where the name is not theirs alone.
func knownHosts(ctx context.Context, cl *client.Client) (found []candidate) {
	hosts, err := cl.Hosts(ctx)
	if err != nil {
		return nil
	}
	named := map[string]int{}
	for _, h := range hosts {
		named[h.Name]++
	}
	for _, h := range hosts {
		if named[h.Name] == 1 {
			found = append(found, candidate{h.Name, string(h.State)})
		} else {
			found = append(found, candidate{h.ID, fmt.Sprintf("%s, %s", h.Name, h.State)})
		}
	}
	return found
}

func knownJobs(ctx context.Context, cl *client.Client) []candidate {
	page, err := cl.Jobs(ctx, client.JobFilter{PageSize: completeJobs})
	if err != nil || len(page.Jobs) == 0 {
		return nil
	}
	found := []candidate{{"last", "the newest"}}
	for _, j := range page.Jobs {
		found = append(found, candidate{j.ID, status(terminal.Style{}, j) + ", " + clip(j.Name)})
	}
	return found
}
