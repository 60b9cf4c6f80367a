package docker

import (
	"context"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/library"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/source"
)

// mirrored gets an image as the mirror of its registry has it; ok is false where
// there is no mirror, or it is of no use, which the job is told. The operator has
// said where the mirror is: it may be at any address.
func (i *images) mirrored(ctx context.Context, g *grip, canonical string, tell func(string)) (p picture, ok bool) {
	canonicalAt, _, ok := i.cfg.Catalog.Mirror(canonical)
	if !ok {
		return picture{}, false
	}
	p, err := i.asMirrored(ctx, g, familiar(canonical), familiar(canonicalAt), tell)
	switch {
	case err == nil:
		return p, true
	case ctx.Err() == nil:
		tell(library.ToldElsewhere(canonical, canonicalAt, err))
	}
	return picture{}, false
}

func (i *images) asMirrored(ctx context.Context, g *grip, reference, at string, tell func(string)) (picture, error) {
	if source.IsDigest(at) {
		// The daemon gives a digest no other name than that of who it had it from.
		if err := g.keep(ctx, at); err != nil {
			return picture{}, err
		}
		if p, _, err := i.inspect(ctx, at); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
			return p, err
		}
	}
	return i.fetch(ctx, g, reference, at, tell)
}
