package terminal

import (
	"strconv"
	"strings"
)

// pen is what colours and styles go on, each as the parameters that set it; "" for
// those that don't.
type pen [penParts]string

// penParts is how many parts a pen has: what one parameter sets, another one of the
// same part replaces or ends.
const penParts = 10

// maxPart bounds the parameters of one part, in bytes. No colour takes so many.
const maxPart = 40

// take is for a sequence that styleOf has let pass.
func (p *pen) take(style string) {
	parameters := strings.Split(strings.TrimSuffix(strings.TrimPrefix(style, "\x1b["), "m"), ";")
	for i := 0; i < len(parameters); i++ {
		first, _, colons := strings.Cut(parameters[i], ":")
		code, err := strconv.Atoi(first)
		if err != nil && first != "" {
			continue
		}
		end := i + 1
		if !colons && (code == 38 || code == 48 || code == 58) {
			end = min(len(parameters), end+colour(parameters[end:]))
		}
		if text := strings.Join(parameters[i:end], ";"); len(text) <= maxPart {
			p.set(code, text)
		}
		i = end - 1
	}
}

func (p *pen) set(code int, text string) {
	switch code {
	case 0:
		*p = pen{}
	case 22: // neither bold nor dim
		p[2], p[3] = "", ""
	default:
		if part, ends := partOf(code); part >= 0 {
			if ends {
				text = ""
			}
			p[part] = text
		}
	}
}

// partOf tells which part a parameter sets or ends, -1 for none.
func partOf(code int) (part int, ends bool) {
	switch {
	case code >= 30 && code <= 38 || code >= 90 && code <= 97:
		return 0, false
	case code >= 40 && code <= 48 || code >= 100 && code <= 107:
		return 1, false
	}
	switch code {
	case 39:
		return 0, true
	case 49:
		return 1, true
	case 1:
		return 2, false
	case 2:
		return 3, false
	case 3, 23:
		return 4, code == 23
	case 4, 21, 24:
		return 5, code == 24
	case 5, 6, 25:
		return 6, code == 25
	case 7, 27:
		return 7, code == 27
	case 9, 29:
		return 8, code == 29
	case 58, 59:
		return 9, code == 59
	}
	return -1, false
}

// sequence makes a terminal that has no style write so; "" for a pen that has none.
func (p *pen) sequence() string {
	var set []string
	for _, text := range p {
		if text != "" {
			set = append(set, text)
		}
	}
	if len(set) == 0 {
		return ""
	}
	return "\x1b[" + strings.Join(set, ";") + "m"
}
