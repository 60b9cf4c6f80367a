package cli

import "strings"

// usage formats the examples of a command's help.
func usage(lines ...string) string {
	return "Examples:\n\n  " + strings.Join(lines, "\n  ")
}
