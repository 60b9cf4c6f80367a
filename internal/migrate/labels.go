package migrate

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// GitHub's own labels. Larger runners are named by their organisation; GitHub's
// own proposal for the name ends in the number of cores.
var (
	hostedLinux  = regexp.MustCompile(`^ubuntu-(latest|slim|\d\d\.\d\d)(-arm)?$`)
	hostedOther  = regexp.MustCompile(`^(windows|macos)-`)
	largerLinux  = regexp.MustCompile(`^(?:ubuntu|linux)-?[a-z0-9.]*-(?:(arm)-?)?(\d{1,3})-?cores?(-arm)?$`)
	largerMemory = 4 // GiB for each core of GitHub's larger runners
)

// labels are what one label of GitHub's becomes; why is the reason where there
// is no such thing.
func labels(label string, size Size) (out []string, why string) {
	name := strings.ToLower(label)
	if m := hostedLinux.FindStringSubmatch(name); m != nil {
		return size.labels(m[2] != ""), ""
	}
	if m := largerLinux.FindStringSubmatch(name); m != nil {
		cores, err := strconv.Atoi(m[2])
		if err == nil && cores > 0 {
			return Size{cores, cores * largerMemory}.labels(m[1] != "" || m[3] != ""), ""
		}
	}
	if m := hostedOther.FindStringSubmatch(name); m != nil {
		return nil, fmt.Sprintf("%s: Nimbus runs Linux alone", label)
	}
	return nil, fmt.Sprintf("%s is not a runner of GitHub's: who has it is not known here", label)
}

func (s Size) labels(arm bool) []string {
	out := []string{"nimbus"}
	if arm {
		out = append(out, "arm64")
	}
	return append(out, fmt.Sprintf("cpu:%d", s.CPUs), fmt.Sprintf("memory:%d", s.MemoryGiB))
}

// target is what a job's runs-on becomes.
func target(before []string, size Size) (after []string, why string) {
	lower := make([]string, len(before))
	for i, l := range before {
		lower[i] = strings.ToLower(l)
	}
	switch {
	case slices.Contains(lower, "self-hosted"):
		return nil, "it asks for a runner of your own (self-hosted)"
	case len(before) == 1:
		return labels(before[0], size)
	}
	return nil, "it asks for several labels at once, which are not GitHub's own: " + strings.Join(before, ", ")
}

func isNimbus(before []string) bool {
	return slices.ContainsFunc(before, func(l string) bool { return strings.EqualFold(l, "nimbus") })
}

// flow writes labels as a list in one line.
func flow(labels []string) string {
	quoted := make([]string, len(labels))
	for i, l := range labels {
		if quoted[i] = l; strings.Contains(l, ":") {
			quoted[i] = strconv.Quote(l)
		}
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}
