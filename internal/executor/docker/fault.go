package docker

import (
	"errors"
	"regexp"
	"strings"
	"sync"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
)

// inTheWay is what the daemon's runtime says of a file where a container needs a
// folder, or the other way round, and of links that lead round in a circle or to
// where nothing may be mounted.
var inTheWay = regexp.MustCompile(`error mounting ".*" to rootfs at "([^"]*)": .*(?:not a directory|too many levels of symbolic links|cannot be mounted because it is inside)`)

// ofImage tells an error of a container's start apart that is the image's.
func ofImage(err error, image string) error {
	found := inTheWay.FindStringSubmatch(strings.ReplaceAll(err.Error(), "\n", " "))
	if found == nil {
		return err
	}
	return &executor.ImageError{Err: nimbus.Errorf(nimbus.CodeInvalid, "no container starts from image %s: something is in the way at %s", image, executor.Printable([]byte(found[1]))).
		WithHint("a container needs folders at %s, or nothing there", strings.Join(append([]string{ownDir, "/etc", "/run"}, writable()...), ", "))}
}

// maxUnfit bounds the images that are remembered; a host has few that don't
// start.
const maxUnfit = 256

// unfit are images, by the digest of their configuration, from which no container
// starts: none is made ready of them. A job's own container is tried.
type unfit struct {
	mu  sync.Mutex
	why map[string]error
}

// note remembers why nothing could be made of an image, if it is the image's
// fault, and returns that.
func (u *unfit) note(id string, err error) error {
	var fault *executor.ImageError
	if !errors.As(err, &fault) {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.why == nil || len(u.why) >= maxUnfit {
		u.why = map[string]error{}
	}
	u.why[id] = fault
	return err
}

// known is why nothing can be made of an image, nil where that is not known.
func (u *unfit) known(id string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.why[id]
}
