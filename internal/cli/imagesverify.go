package cli

import (
	"errors"
	"fmt"
	"slices"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/rootfs"
)

type imagesVerifyCmd struct {
	imagesFlags

	Names []string `arg:"" optional:"" help:"Which. Default: all on this machine." placeholder:"NAME"`
}

func (*imagesVerifyCmd) Help() string {
	return `Reads images as a whole. Built ones are compared with their manifests, converted ones with what a key of this host, or one that it trusts, has signed. Hosts check both before each use by themselves, and read a file again when it has changed.

` + usage("nimbus images verify", "nimbus images verify runner --json")
}

// brokenView is an image, or what was one, that is not what it should be.
type brokenView struct {
	Name   string `json:"name,omitempty"` // none of what can't be read as an image
	Reason string `json:"reason"`
	Hint   string `json:"hint,omitempty"`
}

func (c *imagesVerifyCmd) Run(a *app) error {
	verify, err := c.all(a)
	if err != nil {
		return err
	}
	v := struct {
		Verified []string     `json:"verified"`
		Broken   []brokenView `json:"broken"`
	}{Verified: []string{}, Broken: []brokenView{}}
	var bad error
	for _, one := range verify {
		err := one.check()
		if err == nil {
			v.Verified = append(v.Verified, one.name)
			a.info("%s is what was built", one.name)
			continue
		}
		v.Broken = append(v.Broken, brokenView{one.name, err.Error(), nimbus.ErrorHint(err)})
		if one.name != "" {
			err = fmt.Errorf("image %s: %w", one.name, err)
		}
		bad = errors.Join(bad, err)
	}
	if a.root.JSON {
		if err := a.printJSON(v); err != nil {
			return err
		}
	}
	return bad
}

// verifiable is an image and how to verify it.
type verifiable struct {
	name  string
	check func() error
}

// all are the images that are asked for.
func (c *imagesVerifyCmd) all(a *app) (found []verifiable, err error) {
	store, err := c.store(a)
	if err != nil {
		return nil, err
	}
	roots, err := c.roots(a)
	if err != nil {
		return nil, err
	}
	names := c.Names
	if len(names) == 0 {
		names = store.Names()
		refs, brokenRefs := roots.Refs()
		for _, ref := range refs {
			names = append(names, ref.Name)
		}
		_, broken := roots.List()
		for _, err := range slices.Concat(store.Broken(), broken, brokenRefs) {
			found = append(found, verifiable{"", func() error { return err }})
		}
	}
	for _, name := range names {
		img, err := store.Open(name)
		if err == nil {
			found = append(found, verifiable{name, img.Verify})
			continue
		}
		_, root, rootErr := roots.Ref(name)
		switch {
		case rootErr == nil:
			found = append(found, verifiable{name, func() error { return roots.Verify(root) }})
		case nimbus.ErrorCode(rootErr) == nimbus.CodeNotFound && len(c.Names) > 0 && nimbus.ErrorCode(err) == nimbus.CodeNotFound:
			return nil, noImage(name, store.Names(), roots, err)
		case nimbus.ErrorCode(rootErr) == nimbus.CodeNotFound:
			found = append(found, verifiable{name, func() error { return err }})
		default:
			found = append(found, verifiable{name, func() error { return rootErr }})
		}
	}
	return found, nil
}

// noImage is that there is no image of that name, with what there is of either
// kind; err is what the store of the built ones says.
func noImage(name string, built []string, roots *rootfs.Store, err error) error {
	refs, _ := roots.Refs() // those that can't be read have no names
	if len(refs) == 0 || name == nimbus.DefaultImage {
		return err
	}
	for _, ref := range refs {
		built = append(built, ref.Name)
	}
	return nimbus.Errorf(nimbus.CodeNotFound, "there is no image %q on this host", name).
		WithHint("this host has %s (nimbus images list)", image.Nearest(name, built))
}
