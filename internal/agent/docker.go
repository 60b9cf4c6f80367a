package agent

import (
	"context"
	"slices"
	"strings"

	"github.com/nimbus-ci/nimbus"
)

// dockerImage is the image whose jobs have a docker daemon of their own.
const dockerImage = "docker"

// lacksDocker tells whether a line says that there is no docker: GitHub's runner
// does so of a workflow's services: and container:, and so do shells.
func lacksDocker(l nimbus.Line) bool {
	return strings.Contains(l.Text, "docker: command not found") || strings.HasSuffix(l.Text, "docker: not found")
}

// notice looks whether the job wanted docker.
func (f *follower) notice(batch []nimbus.Line) {
	if !f.docker && f.t.assign.Class.Image != dockerImage {
		f.docker = slices.ContainsFunc(batch, lacksDocker)
	}
}

// sayDocker ends the log of a job that wanted docker with how to get it.
func (f *follower) sayDocker(ctx context.Context) {
	if f.docker {
		f.t.say(ctx, "there is no docker in image "+f.t.assign.Class.Image+
			": a job with services:, container: or docker commands has a daemon of its own with runs-on: [nimbus, image:"+dockerImage+"]")
	}
}
