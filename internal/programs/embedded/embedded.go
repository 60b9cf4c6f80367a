// Package embedded holds the programs that `make build` puts into nimbus, so
// that one file carries everything.
package embedded

import (
	"embed"
	"io/fs"
)

// dist holds a README in a clean checkout, everything once it was built.
//
//go:embed all:dist
var files embed.FS

// Programs returns the programs by their names.
func Programs() fs.FS {
	sub, err := fs.Sub(files, "dist")
	if err != nil {
		panic(err) // a valid path: can't happen
	}
	return sub
}
