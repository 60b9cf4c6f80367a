package agent

import (
	"context"
	"regexp"
	"slices"

	"github.com/nimbus-ci/nimbus"
)

// dockerImage is the image whose jobs have a docker daemon of their own.
const dockerImage = "docker"

// noDocker is what shells, and GitHub's runner of a workflow's services: and
// container:, say where there is no docker; noDaemon what docker says where it has
// no daemon.
var (
	noDocker = regexp.MustCompile(`(?:^|\])docker: command not found|(?::(?: line)? \d+|sh): docker: (?:command not found|not found$)`)
	noDaemon = regexp.MustCompile(`Cannot connect to the Docker daemon at unix:///(?:var/)?run/docker\.sock`)
)

func lacksDocker(l nimbus.Line) bool {
	return noDocker.MatchString(l.Text) || noDaemon.MatchString(l.Text)
}

// hasDaemon tells whether jobs of a class have a docker daemon.
func hasDaemon(c nimbus.Class) bool {
	return c.Image == dockerImage && c.Executor != nimbus.ExecutorDocker
}

// notice looks whether the job wanted docker.
func (f *follower) notice(batch []nimbus.Line) {
	if !f.docker && !hasDaemon(f.t.assign.Class) {
		f.docker = slices.ContainsFunc(batch, lacksDocker)
	}
}

// sayDocker ends the log of a job that wanted docker, and failed, with how to get
// it.
func (f *follower) sayDocker(ctx context.Context, result nimbus.Result) {
	if !f.docker || result != nimbus.ResultFailure {
		return
	}
	what := "there is no docker daemon in image " + f.t.assign.Class.Image
	if f.t.assign.Class.Executor == nimbus.ExecutorDocker {
		what = "a container has no docker daemon, whatever its image"
	}
	f.t.say(ctx, what+": a job with services:, container: or docker commands has one of its own, in a microVM, with runs-on: [nimbus, image:"+dockerImage+"]")
}
