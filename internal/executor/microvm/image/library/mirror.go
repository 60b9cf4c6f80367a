package library

import (
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/nimbus-ci/nimbus"
)

// Mirrors are where images of registries are asked for first: for a registry, what
// is put before the path of its images. Both are canonical, as NewMirrors makes
// them.
type Mirrors map[string]string

// NewMirrors reads what an operator wrote: docker.io=nimbus.example/acme/docker.io.
// Codes: invalid.
func NewMirrors(written map[string]string) (Mirrors, error) {
	mirrors := Mirrors{}
	for registry, prefix := range written {
		of, err := name.NewRegistry(registry)
		if err != nil || registry == "" {
			return nil, nimbus.Errorf(nimbus.CodeInvalid, "%q is no registry that could have a mirror", clip(registry)).WithHint("%s", mirrorHint)
		}
		host, path, hasPath := strings.Cut(prefix, "/")
		// A name without a dot is a path at Docker's registry to others who read it.
		at, err := name.NewRegistry(host)
		if err != nil || !strings.ContainsAny(host, ".:") && host != "localhost" || hasPath && !isPath(path) {
			return nil, nimbus.Errorf(nimbus.CodeInvalid, "%q is no place of a mirror of %s", clip(prefix), clip(registry)).WithHint("%s", mirrorHint)
		}
		canonical := at.RegistryStr()
		if hasPath {
			canonical += "/" + path
		}
		if canonical == of.RegistryStr() {
			return nil, nimbus.Errorf(nimbus.CodeInvalid, "%s can't be the mirror of itself", clip(registry)).WithHint("%s", mirrorHint)
		}
		mirrors[of.RegistryStr()] = canonical
	}
	return mirrors, nil
}

const mirrorHint = "it looks like docker.io=nimbus.example/acme/docker.io: a registry, and HOST/PATH without https:// and without a tag"

// isPath tells whether something can be the beginning of a repository's path.
func isPath(path string) bool {
	if slices.Contains(strings.Split(path, "/"), "") || strings.ContainsAny(path, ":@") {
		return false
	}
	_, err := name.NewRepository("registry.invalid/" + path)
	return err == nil
}

// of is where an image is asked for first.
func (m Mirrors) of(canonical string) (at string, ok bool) {
	registry, rest, _ := strings.Cut(canonical, "/")
	prefix, ok := m[registry]
	if !ok {
		return "", false
	}
	return prefix + "/" + rest, true
}

// originals are the images that a reference is a mirror's copy of: one for each
// mirror that has it.
func (m Mirrors) originals(canonical string) (all []string) {
	for registry, prefix := range m {
		if rest, ok := strings.CutPrefix(canonical, prefix+"/"); ok {
			all = append(all, registry+"/"+rest)
		}
	}
	return all
}
