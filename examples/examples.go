// Package examples embeds the projects in this folder, so that the demo runs
// without a source tree.
package examples

import "embed"

// Hello is the project that the demo pushes. Embedded files have no
// executable bits; whoever unpacks them gives one to files that begin with #!.
//
//go:embed all:hello
var Hello embed.FS
