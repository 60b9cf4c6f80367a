package lines

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
)

// BenchmarkWrite is what lines cost a host that hides five secrets in them: those of
// an ordinary build, those with many paths, which look like base64, JSON, and JSON in
// JSON with a URL, in which every fourth character is escaped.
func BenchmarkWrite(b *testing.B) {
	for name, line := range map[string]string{
		"build":   "2026-11-28T02:10:07Z INFO  compiling internal/logs (37 of 412 packages), 12.4 s so far, 3 warnings, none new\n",
		"paths":   "-rw-r--r-- root /usr/lib/python3/dist-packages/numpy/core/include/numpy/arrayobject.h node_modules/typescript/lib/typescript.js\n",
		"json":    `{"level":"info","msg":"GET \"/api/v1/jobs?limit=20&after=job%2F17\"","status":200,"took":"12.4ms","bytes":18231}` + "\n",
		"escapes": `{"body":"{\"model\":\"m-4\",\"messages\":[{\"role\":\"user\",\"content\":\"a\\nb\\tc &amp; d &lt;e&gt;\"}]}","url":"/q?x=%7B%22a%22%3A+%5B1%2C2%5D%7D&y=%2Fz%2F"}` + "\n",
	} {
		b.Run(name, func(b *testing.B) {
			s := newSplitter()
			for i := range 5 {
				s.Mask(fmt.Sprintf("ghp_%036d", i*7919))
			}
			text := []byte(strings.Repeat(line, 500))
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				s.Write(nimbus.StreamStdout, text)
			}
		})
	}
}

// BenchmarkMask is what it costs to hide one more.
func BenchmarkMask(b *testing.B) {
	n := 0
	for b.Loop() {
		var m masks
		for range 100 {
			n++
			m.add(fmt.Sprintf("%080d", n*7919))
		}
		m.prepare()
	}
}
