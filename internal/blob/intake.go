package blob

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/nimbus-ci/nimbus"
)

// Intake is what comes in to be stored: bounded, hashed on the way, and over
// once its context is. Places read through one.
type Intake struct {
	ctx  context.Context
	r    io.Reader
	most int64
	sum  hash.Hash // nil: whoever sends it knows it
	n    int64
	err  error
}

// Unhashed is a source of a Put whose reader knows its hash by itself, so that it
// isn't hashed a second time: Put returns none of it.
type Unhashed interface {
	io.Reader
	Unhashed()
}

// NewIntake returns one of what r holds, up to most bytes.
func NewIntake(ctx context.Context, r io.Reader, most int64) *Intake {
	in := &Intake{ctx: ctx, r: r, most: most}
	if _, ok := r.(Unhashed); !ok {
		in.sum = sha256.New()
	}
	return in
}

// Hashed is a source that is hashed in any case.
func Hashed(r io.Reader) io.Reader {
	if _, ok := r.(Unhashed); ok {
		return struct{ io.Reader }{r}
	}
	return r
}

// Read implements io.Reader. Codes: too_large, with the first byte too many.
func (i *Intake) Read(p []byte) (n int, err error) {
	defer func() {
		if err != nil && !errors.Is(err, io.EOF) {
			i.err = err
		}
	}()
	if i.ctx.Err() != nil {
		return 0, fmt.Errorf("read the content: %w", context.Cause(i.ctx))
	}
	// One byte more than may come tells whether there is one.
	if room := i.most - i.n; int64(len(p))-1 > room {
		p = p[:max(room+1, 0)]
	}
	n, err = i.r.Read(p)
	i.n += int64(n)
	if i.sum != nil {
		i.sum.Write(p[:n])
	}
	if i.n > i.most {
		return 0, nimbus.Errorf(nimbus.CodeTooLarge, "more than %d bytes", i.most)
	}
	return n, err
}

// Err is why what comes in could not be read to its end: the fault of who sends
// it, or its size, not of the place.
func (i *Intake) Err() error { return i.err }

// Info is what has been read.
func (i *Intake) Info() Info {
	if i.sum == nil {
		return Info{Size: i.n}
	}
	return Info{Size: i.n, SHA256: hex.EncodeToString(i.sum.Sum(nil))}
}
