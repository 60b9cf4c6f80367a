package image

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Nearest lists the few names that are most like one that isn't there, for its
// hint, and how many others there are.
func Nearest(name string, names []string) string {
	const most = 5
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(alike(name, b), alike(name, a)) })
	if more := len(names) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), more)
	}
	return strings.Join(names, ", ")
}

// alike is how many bytes two names begin with alike.
func alike(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}
