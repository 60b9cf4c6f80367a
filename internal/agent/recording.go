package agent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/logs/lines"
)

const (
	// maxRecording bounds the text of a recording.
	maxRecording = 8 << 20
	// maxRecordedEvent bounds that of one event, with room for escapes in a line.
	maxRecordedEvent = 8 << 10
)

// recordingEnds is the last that a recording shows that is as long as it may be.
const recordingEnds = "\r\n[nimbus: the recording ends here, it is as long as it may be; the shell goes on]\r\n"

// recording makes an asciicast of what a shell shows, never of what is typed:
// https://docs.asciinema.org/manual/asciicast/v2/
type recording struct {
	began   time.Time
	veil    lines.Veil
	masked  int
	partial []byte // of a character
	seq     int64
	size    int
	full    bool
	plain   bool          // there is no terminal: the ends of lines are made into what one shows
	made    []nimbus.Line // that were not sent yet
}

// newRecording begins with the head. secrets are not shown.
func newRecording(spec *nimbusv1.ShellSpec, secrets []string, now time.Time) *recording {
	r := &recording{began: now, plain: spec.GetTerminal() == nil}
	r.mask(secrets)
	head := map[string]any{"version": 2, "width": 80, "height": 24, "timestamp": now.Unix()}
	if size := spec.GetTerminal(); size != nil {
		head["width"], head["height"] = size.GetColumns(), size.GetRows()
		head["env"] = map[string]string{"TERM": spec.GetTerm()}
	}
	if command := spec.GetCommand(); len(command) > 0 {
		text := []rune(r.veil.Write(strings.ToValidUTF8(strings.Join(command, " "), "\ufffd")) + r.veil.Flush())
		head["command"] = string(text[:min(len(text), 1000)])
	}
	r.line(head, now)
	return r
}

// mask hides secrets, of which there only come more.
func (r *recording) mask(secrets []string) {
	if len(secrets) == r.masked {
		return
	}
	for _, secret := range secrets {
		r.veil.Mask(secret)
	}
	r.masked = len(secrets)
}

// output adds what the shell wrote.
func (r *recording) output(data []byte, now time.Time) {
	if r.full {
		return
	}
	if r.plain {
		data = bytes.ReplaceAll(data, []byte("\n"), []byte("\r\n"))
	}
	data = append(r.partial, data...)
	whole := wholeRunes(data)
	r.partial = append([]byte(nil), data[whole:]...)
	r.show(r.veil.Write(strings.ToValidUTF8(string(data[:whole]), "\ufffd")), now)
}

// resize adds that the terminal has another size.
func (r *recording) resize(size *nimbusv1.WindowSize, now time.Time) {
	r.event("r", fmt.Sprintf("%dx%d", size.GetColumns(), size.GetRows()), now)
}

// end adds what was kept back.
func (r *recording) end(now time.Time) {
	r.show(r.veil.Write(strings.ToValidUTF8(string(r.partial), "\ufffd"))+r.veil.Flush(), now)
	r.partial = nil
}

// take returns the lines that were made since.
func (r *recording) take() []nimbus.Line {
	made := r.made
	r.made = nil
	return made
}

func (r *recording) show(text string, now time.Time) {
	for len(text) > 0 {
		n := min(len(text), maxRecordedEvent)
		for n < len(text) && !utf8.RuneStart(text[n]) {
			n--
		}
		r.event("o", text[:n], now)
		text = text[n:]
	}
}

func (r *recording) event(kind, text string, now time.Time) {
	switch {
	case r.full:
		return
	case r.size+len(text) > maxRecording:
		r.full, kind, text = true, "o", recordingEnds
	}
	r.size += len(text) + 64 // what an event takes beside its text
	r.line([]any{float64(now.Sub(r.began).Microseconds()) / 1e6, kind, text}, now)
}

func (r *recording) line(what any, now time.Time) {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if enc.Encode(what) != nil {
		return // numbers and valid text: it can't be
	}
	r.seq++
	r.made = append(r.made, nimbus.Line{Seq: r.seq, At: now, Stream: nimbus.StreamStdout, Text: strings.TrimSuffix(b.String(), "\n")})
}

// wholeRunes is how much of a text ends with a whole character.
func wholeRunes(b []byte) int {
	for i := 1; i < utf8.UTFMax && i <= len(b); i++ {
		if c := b[len(b)-i]; utf8.RuneStart(c) {
			if !utf8.FullRune(b[len(b)-i:]) {
				return len(b) - i
			}
			break
		}
	}
	return len(b)
}
