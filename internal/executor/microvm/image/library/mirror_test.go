package library_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/library"
)

// away is a registry that nobody can reach.
const away = "registry.nimbus-test.invalid"

func mirrors(t *testing.T, written map[string]string) library.Mirrors {
	t.Helper()
	m, err := library.NewMirrors(written)
	must(t, err)
	return m
}

// TestMirrorsOfImages: the same path behind the prefix, tag and digest as they are.
func TestMirrorsOfImages(t *testing.T) {
	t.Parallel()
	digest := "@sha256:" + strings.Repeat("a", 64)
	c := library.Catalog{
		Aliases: map[string]string{"ours": "registry.corp:5000/x/y:1"},
		Mirrors: mirrors(t, map[string]string{"docker.io": "nimbus.example/acme/docker.io", "registry.corp:5000": "10.0.0.5:8080", "localhost": "docker.io/acme/local"}),
	}
	for name, want := range map[string]string{
		"docker.io/library/node:18":   "nimbus.example/acme/docker.io/library/node:18",
		"node:18":                     "nimbus.example/acme/docker.io/library/node:18",
		"node-22":                     "nimbus.example/acme/docker.io/library/node:22-bookworm",
		"acme/app" + digest:           "nimbus.example/acme/docker.io/acme/app" + digest,
		"ours":                        "10.0.0.5:8080/x/y:1",
		"localhost/a/b:1":             "index.docker.io/acme/local/a/b:1",
		"ghcr.io/acme/ci:1":           "",
		"registry.corp/x/y:1":         "",
		"nimbus.example/acme/ours:1":  "",
		"docker.io.example/library/x": "",
	} {
		canonical, err := c.Resolve(name, nil)
		must(t, err)
		at, named, ok := c.Mirror(canonical)
		if at != want || ok != (want != "") {
			t.Errorf("%s is asked for at %q, not %q", name, at, want)
		}
		if host, _, _ := strings.Cut(at, "/"); ok && (!named(host) || named("10.0.0.6")) {
			t.Errorf("%s: %s may not be inside, or others may", name, host)
		}
	}
	canonical, err := c.Resolve("10.0.0.5:8080/other:1", nil)
	must(t, err)
	if c.Named(canonical)("10.0.0.5:8080") {
		t.Error("the mirror is named for what is asked of it by its own name")
	}
}

func TestMirrorsThatAreNone(t *testing.T) {
	t.Parallel()
	for registry, prefix := range map[string]string{
		"docker.io": "https://nimbus.example/acme", "a.example": "acme/docker.io", "b.example": "", "c.example": "nimbus.example/acme:1", "d.example": "nimbus.example/",
		"e.example": "nimbus.example/UPPER", "f.example": "nimbus.example/a//b", "g.example/path": "nimbus.example/a", "": "nimbus.example/a", "h.example": "h.example",
		"i.example": "nimbus.example/a@sha256:" + strings.Repeat("a", 64),
	} {
		if m, err := library.NewMirrors(map[string]string{registry: prefix}); nimbus.ErrorCode(err) != nimbus.CodeInvalid || !strings.Contains(nimbus.ErrorHint(err), "docker.io=") {
			t.Errorf("%s=%s is %v: %v", registry, prefix, m, err)
		}
	}
}

// TestMirrorIsNoWayAround: what may be used is said of the registry's own name, and
// what the mirror has is the registry's, whatever it is asked as.
func TestMirrorIsNoWayAround(t *testing.T) {
	t.Parallel()
	images := store(t)
	host, came := listen(t, http.NotFoundHandler())
	m := mirrors(t, map[string]string{away: host + "/acme/copies"})
	for _, policy := range []library.Policy{
		{Deny: []string{away + "/secret/*"}},
		{Allow: []string{host + "/*"}, Deny: []string{away + "/secret/*"}},
		{Allow: []string{host + "/*", away + "/public/*"}},
		{Allow: []string{host + "/*"}},
	} {
		l := library.New(library.Config{Images: images, Policy: policy, Mirrors: m})
		for _, name := range []string{away + "/secret/tiny:1", host + "/acme/copies/secret/tiny:1"} {
			if _, err := l.Get(t.Context(), name, "job", silent); nimbus.ErrorCode(err) != nimbus.CodeForbidden || !strings.Contains(nimbus.ErrorHint(err), "operator") {
				t.Errorf("%+v: %s: %v", policy, name, err)
			}
		}
	}
	// Nor are others of the same registry asked for, that no rule names.
	_, err := library.New(library.Config{Images: images, Mirrors: m}).Get(t.Context(), host+"/acme/other:1", "job", silent)
	refusedInside(t, err, host)
	if n := came.Load(); n != 0 {
		t.Errorf("it was asked %d times", n)
	}
}

// TestMirror has images from a mirror inside whose registry is away, and those from
// the registry that the mirror has not, or is away itself, which each job is told.
func TestMirror(t *testing.T) {
	t.Parallel()
	reference, blobs, _ := serve(t, tiny(t))
	host, path, _ := strings.Cut(reference, "/")
	images := store(t)
	l := library.New(library.Config{Images: images, Refresh: time.Nanosecond, Mirrors: mirrors(t, map[string]string{away: host})})
	told := ""
	tell := func(what string) { told += what + "\n" }
	img, err := l.Get(t.Context(), away+"/"+path, "job", tell)
	if err != nil || blobs.Load() == 0 || strings.Contains(told, "does not give") {
		t.Fatalf("%v, %d blobs, told %q", err, blobs.Load(), told)
	}
	if img.Name != away+"/"+path {
		t.Errorf("it is called %s", img.Name)
	}
	if _, err := l.Open(away + "/" + path); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if _, err := l.Get(t.Context(), away+"/acme/other:1", "job", silent); nimbus.ErrorCode(err) != nimbus.CodeUnavailable {
		t.Errorf("nobody has it: %v", err)
	}

	empty, came := listen(t, http.NotFoundHandler())
	for _, mirror := range []string{empty + "/acme", "127.0.0.1:1/acme"} {
		l := library.New(library.Config{Images: store(t), Policy: naming(host), Mirrors: mirrors(t, map[string]string{host: mirror})})
		told = ""
		_, err := l.Get(t.Context(), reference, "job", tell)
		mirrorHost, _, _ := strings.Cut(mirror, "/")
		if err != nil || strings.Count(told, "the mirror "+mirrorHost+" does not give image "+reference+", "+host+" is asked") != 1 {
			t.Errorf("%s: %v, told %q", mirror, err, told)
		}
	}
	if came.Load() == 0 {
		t.Error("the mirror was not asked")
	}
	// The registry's own address is judged as ever.
	l = library.New(library.Config{Images: store(t), Mirrors: mirrors(t, map[string]string{host: empty})})
	_, err = l.Get(t.Context(), reference, "job", silent)
	refusedInside(t, err, host)
}
