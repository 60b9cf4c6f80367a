package lines

// automaton finds all of many texts in one pass, however many they are and however
// they overlap (Aho, Corasick: Efficient string matching, 1975).
type automaton struct {
	nodes []node
	first [256]int32 // the children of the root
}

// node is a beginning of one or more texts.
type node struct {
	child, sibling int32 // 0: none
	fail           int32 // its longest end that is another beginning
	depth          int32 // its length
	longest        int32 // of the texts that are its ends; 0: none is
	by             byte  // what leads to it
}

// newAutomaton makes one of texts that are not empty.
func newAutomaton(texts []string) *automaton {
	a := &automaton{nodes: make([]node, 1)}
	for _, text := range texts {
		a.add(text)
	}
	a.link()
	return a
}

func (a *automaton) add(text string) {
	at := int32(0)
	for i := range len(text) {
		next := a.child(at, text[i])
		if next == 0 {
			next = int32(len(a.nodes))
			a.nodes = append(a.nodes, node{sibling: a.nodes[at].child, depth: a.nodes[at].depth + 1, by: text[i]})
			a.nodes[at].child = next
			if at == 0 {
				a.first[text[i]] = next
			}
		}
		at = next
	}
	a.nodes[at].longest = a.nodes[at].depth
}

// link finds where to go on where a text does not: from the shortest beginnings to
// the longest, since each needs those that are shorter.
func (a *automaton) link() {
	queue := make([]int32, 0, len(a.nodes))
	for c := a.nodes[0].child; c != 0; c = a.nodes[c].sibling {
		queue = append(queue, c)
	}
	for len(queue) > 0 {
		at := queue[0]
		queue = queue[1:]
		for c := a.nodes[at].child; c != 0; c = a.nodes[c].sibling {
			n := &a.nodes[c]
			n.fail = a.step(a.nodes[at].fail, n.by)
			if n.longest == 0 {
				n.longest = a.nodes[n.fail].longest
			}
			queue = append(queue, c)
		}
	}
}

func (a *automaton) child(at int32, b byte) int32 {
	if at == 0 {
		return a.first[b]
	}
	c := a.nodes[at].child
	for c != 0 && a.nodes[c].by != b {
		c = a.nodes[c].sibling
	}
	return c
}

// step goes on by a byte: to the longest beginning that the text now ends with.
func (a *automaton) step(at int32, b byte) int32 {
	for {
		if c := a.child(at, b); c != 0 || at == 0 {
			return c
		}
		at = a.nodes[at].fail
	}
}

// begun is how many bytes of the text so far may go on to be one that is looked for.
func (a *automaton) begun(at int32) int {
	for at != 0 && a.nodes[at].child == 0 { // one that is whole: it began, and is over
		at = a.nodes[at].fail
	}
	return int(a.nodes[at].depth)
}
