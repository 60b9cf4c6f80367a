package library

import (
	"fmt"
	"strings"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/source"
)

// Catalog says what the names of images mean on a host, and which of them jobs
// may use.
type Catalog struct {
	Aliases map[string]string // name -> reference, over DefaultAliases
	Policy  Policy
	Mirrors Mirrors
}

// Resolve finds what a name means in a registry, and whether it may be used.
// here lists what the host has under names of its own, for the hint. Codes:
// not_found, invalid, forbidden.
func (c Catalog) Resolve(name string, here func() []string) (canonical string, err error) {
	reference := name
	if alias, ok := c.alias(name); ok {
		reference = alias
	} else if !isReference(name) {
		return "", nimbus.Errorf(nimbus.CodeNotFound, "there is no image %q on this host", name).WithHint("%s", c.hint(name, here()))
	}
	if canonical, err = source.Canonical(reference); err != nil {
		return "", err
	}
	return canonical, c.check(canonical)
}

// check tells whether an image may be used. What a mirror has is the registry's
// that it mirrors: one that may not be used may not be had there either.
func (c Catalog) check(canonical string) error {
	if err := c.Policy.Check(canonical); err != nil {
		return err
	}
	for _, original := range c.Mirrors.originals(canonical) {
		if err := c.Policy.Check(original); err != nil {
			return err
		}
	}
	return nil
}

// Mirror is where an image that Resolve has found is asked for before its own
// registry is, and which registries may be at addresses of the host's own network
// meanwhile: the mirror besides, which the operator has named; ok is false where
// there is none.
func (c Catalog) Mirror(canonical string) (at string, named source.Named, ok bool) {
	at, ok = c.Mirrors.of(canonical)
	if !ok {
		return "", nil, false
	}
	mirror, _, _ := strings.Cut(at, "/")
	own := c.Named(canonical)
	return at, func(registry string) bool { return registry == mirror || own(registry) }, true
}

// AskElsewhere tells whether an image is asked for at its own registry after its
// mirror has answered so: it has it not, or not for this host or this host's
// login, it can't be reached, or sends us where nobody may be asked.
func AskElsewhere(err error) bool {
	switch nimbus.ErrorCode(err) {
	case nimbus.CodeNotFound, nimbus.CodeUnavailable, nimbus.CodeForbidden, nimbus.CodeInvalid:
		return true
	}
	return false
}

// ToldElsewhere says in a job's log that a mirror was of no use.
func ToldElsewhere(canonical, at string, err error) string {
	mirror, _, _ := strings.Cut(familiar(at), "/")
	own, _, _ := strings.Cut(familiar(canonical), "/")
	return fmt.Sprintf("the mirror %s does not give image %s, %s is asked: %v", mirror, familiar(canonical), own, err)
}

// Named tells which registries may be at addresses of the host's own network
// while an image is fetched that Resolve has found: those that a rule of what is
// allowed names, and where the image is an alias' of the operator's, its own.
func (c Catalog) Named(canonical string) source.Named {
	own := ""
	for _, reference := range c.Aliases {
		if aliased, err := source.Canonical(reference); err == nil && aliased == canonical {
			own, _, _ = strings.Cut(canonical, "/")
		}
	}
	return func(registry string) bool { return registry == own || c.Policy.names(registry) }
}

// isReference tells a registry's image from a name of this host's own: it has a
// tag, a digest or a path. A short name alone is never looked for elsewhere,
// where anybody could have taken it.
func isReference(name string) bool { return strings.ContainsAny(name, ":/@") }

func (c Catalog) alias(name string) (string, bool) {
	if reference, ok := c.Aliases[name]; ok {
		return reference, true
	}
	reference, ok := DefaultAliases()[name]
	return reference, ok
}

func (c Catalog) hint(name string, known []string) string {
	if how := image.HowToBuild(name); how != "" {
		return "build it: " + how
	}
	for alias := range c.Aliases {
		known = append(known, alias)
	}
	for alias := range DefaultAliases() {
		known = append(known, alias)
	}
	return fmt.Sprintf("a container image is named with its tag, like %s:latest; this host knows %s (nimbus images list; aliases: docs/images.md)", name, image.Nearest(name, known))
}
