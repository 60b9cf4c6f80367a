package guest

import (
	"bytes"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/guest/runnerlog"
)

// maxSaid is as much of a line of the runner's as is looked at.
const maxSaid = 512

// saidAtExit are the words of run.sh for how the listener ended, with the code
// that they stand for; run.sh itself ends with 0 for nearly all of them. Those
// of 3 are those of 4 too.
var saidAtExit = []struct {
	words string
	code  int32
}{
	{"Runner listener exit with 0 return code", 0},
	{"Runner listener exit with terminated error", 1},
	{"Runner listener exit with retryable error", 2},
	{"Runner listener exit because of updating", 3},
	{"Runner listener exit with Session Conflict error", 5},
	{"Runner listener exit with deprecated version exit code", 7},
}

// saidUnknown are its words for a code that it does not know.
var saidUnknown = regexp.MustCompile(`^Exiting with unknown error code: ([0-9]{1,3})$`)

// saidRunning is what the listener says when it has got a job.
var saidRunning = regexp.MustCompile(`^[0-9-]{10} [0-9:]{8}Z: Running job: `)

// runner follows GitHub's runner: its pages, and what it says itself.
type runner struct {
	tail   *runnerlog.Tail
	lines  transcript
	said   []byte // the line that it has begun
	hadJob bool
	code   *int32
}

func followRunner(folders []string, dir string, e *events) (*runner, error) {
	r := &runner{lines: transcript{events: e}}
	at := make([]string, len(folders))
	for i, folder := range folders {
		if at[i] = folder; !filepath.IsAbs(folder) {
			at[i] = filepath.Join(dir, folder)
		}
	}
	var err error
	r.tail, err = runnerlog.Start(at, func(data []byte) { r.lines.write(byJob, data) })
	return r, err
}

// output takes what the runner itself wrote.
func (r *runner) output(data []byte) {
	r.lines.write(byRunner, data)
	for len(data) > 0 {
		i := bytes.IndexByte(data, '\n')
		part := data
		if i >= 0 {
			part = data[:i]
		}
		r.said = append(r.said, part[:min(len(part), maxSaid-len(r.said))]...)
		if i < 0 {
			return
		}
		r.hear(string(r.said))
		r.said, data = r.said[:0], data[i+1:]
	}
}

func (r *runner) hear(text string) {
	if saidRunning.MatchString(text) {
		r.hadJob = true
	}
	if m := saidUnknown.FindStringSubmatch(text); m != nil {
		code, err := strconv.ParseInt(m[1], 10, 32)
		if err == nil {
			c := int32(code)
			r.code = &c
		}
	}
	for _, said := range saidAtExit {
		if strings.HasPrefix(text, said.words) {
			r.code = &said.code
		}
	}
}

// end is for a runner that has ended, and whose output was read.
func (r *runner) end() *nimbusv1.RunnerExit {
	hadJob := r.tail.Finish()
	return &nimbusv1.RunnerExit{HadJob: hadJob || r.hadJob, ListenerCode: r.code}
}
