package cli

import "strings"

// examplesTitle begins the examples at the end of a command's help.
const examplesTitle = "Examples:"

// usage formats the examples of a command's help.
func usage(lines ...string) string {
	return examplesTitle + "\n\n  " + strings.Join(lines, "\n  ")
}
