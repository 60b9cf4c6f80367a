// Package web carries the dashboard: React pages that `make build` writes into
// dist/. Plain `go build` works without Node and carries a page that says so.
package web

import (
	"embed"
	"io/fs"
)

// dist holds robots.txt in a clean checkout, everything once it was built.
//
//go:embed all:dist placeholder
var files embed.FS

// Built tells whether this program carries the dashboard.
func Built() bool {
	_, err := fs.Stat(files, "dist/index.html")
	return err == nil
}

// Pages returns the files to serve, index.html at the root: the dashboard, or
// the placeholder.
func Pages() fs.FS {
	dir := "placeholder"
	if Built() {
		dir = "dist"
	}
	sub, err := fs.Sub(files, dir)
	if err != nil {
		panic(err) // both are valid paths: can't happen
	}
	return sub
}
