package httpapi

import (
	"io/fs"
	"net/http"
	"path"
	"strings"
)

// notPages are the paths below which a missing thing is no page.
var notPages = []string{"/api/", "/nimbus.", "/webhooks/", "/login", "/assets/"}

// pages serves the dashboard: files by their names, and its index for every
// other path, since the pages find their way themselves. Names of assets hold a
// hash of what is in them; only one that exists may be kept for ever.
func pages(files fs.FS) http.Handler {
	server := http.FileServerFS(files)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/nimbus.") { // a service that there is not
			noCall(w, r)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			noPath(w, r)
			return
		}
		name := strings.TrimPrefix(path.Clean(r.URL.Path), "/")
		info, err := fs.Stat(files, name)
		switch {
		case err == nil && !info.IsDir() && name != "index.html":
			if strings.HasPrefix(name, "assets/") {
				w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
			}
			server.ServeHTTP(w, r)
		case isPage(r.URL.Path):
			w.Header().Set("Cache-Control", "no-cache")
			http.ServeFileFS(w, r, files, "index.html")
		default:
			noPath(w, r)
		}
	})
}

func isPage(p string) bool {
	for _, prefix := range notPages {
		if strings.HasPrefix(p, prefix) {
			return false
		}
	}
	return true
}
