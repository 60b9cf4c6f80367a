package registry

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
)

// TestBombs: what is in a manifest makes it take much less memory than it could. Most
// of what is counted here is free again at once.
//
//nolint:paralleltest // it measures what all of the program allocates
func TestBombs(t *testing.T) {
	sum := "sha256:" + strings.Repeat("0a", 32)
	full := func(begins, each, ends string) []byte {
		n := (MaxManifest - len(begins) - len(ends)) / len(each)
		return []byte(begins + strings.TrimSuffix(strings.Repeat(each, n), ",") + ends)
	}
	var names strings.Builder
	for i := 0; names.Len() < MaxManifest-1000; i++ {
		fmt.Fprintf(&names, `"%d":"",`, i)
	}
	config := `"config":{"digest":"` + sum + `","size":1}`
	for what, c := range map[string]struct {
		content []byte
		code    nimbus.Code
	}{
		"layers":      {full(`{"schemaVersion":2,`+config+`,"layers":[`, `{},`, `]}`), nimbus.CodeTooLarge},
		"manifests":   {full(`{"schemaVersion":2,"manifests":[`, `{},`, `]}`), nimbus.CodeTooLarge},
		"no objects":  {full(`{"schemaVersion":2,`+config+`,"layers":[`, `0,`, `]}`), nimbus.CodeInvalid},
		"both":        {full(`{"schemaVersion":2,`+config+`,"layers":[`+strings.TrimSuffix(strings.Repeat(`{},`, MaxRefs), ",")+`],"manifests":[`, `{},`, `]}`), nimbus.CodeTooLarge},
		"again":       {full(`{"schemaVersion":2,`+config+``, `,"layers":[{}]`, `}`), nimbus.CodeInvalid},
		"addresses":   {full(`{"schemaVersion":2,"config":{"digest":"`+sum+`","size":1,"urls":[`, `"",`, `]},"layers":[]}`), ""},
		"annotations": {[]byte(`{"schemaVersion":2,` + config + `,"subject":{"digest":"` + sum + `"},"annotations":{` + strings.TrimSuffix(names.String(), ",") + `}}`), ""},
		"nesting":     {full(`{"schemaVersion":2,`+config+`,"layers":`, `[`, ``), nimbus.CodeInvalid},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := ParseManifest(c.content, "", "")
		runtime.ReadMemStats(&after)
		if err == nil && c.code != "" || err != nil && nimbus.ErrorCode(err) != c.code {
			t.Errorf("%s: it is answered by %v, want %q", what, err, c.code)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 128<<20 {
			t.Errorf("%s: %d MiB are allocated for %d KiB", what, took>>20, len(c.content)>>10)
		}
	}
}

// TestAnnotations: they are kept as they were written, as far as that is text.
func TestAnnotations(t *testing.T) {
	t.Parallel()
	sum := "sha256:" + strings.Repeat("0a", 32)
	for text, want := range map[string]string{
		`{"b":"<1>", "a" : "\u0000"}`: `{"b":"<1>", "a" : "\u0000"}`, `{}`: ``, `null`: ``, "{\"a\":\"\xff\xfe\"}": "{\"a\":\"\uFFFD\"}",
		"{ \"a\" :null ,\n\"\\\\\\\"b\":\"}\" }": "{ \"a\" :null ,\n\"\\\\\\\"b\":\"}\" }", `{"a":"b","c":[]}`: "its field annotations", `{"a":{}}`: "its field annotations",
		`{"a":1}`: "its field annotations", `[]`: "its field annotations", `"a"`: "its field annotations",
	} {
		m, err := ParseManifest([]byte(`{"schemaVersion":2,"config":{"digest":"`+sum+`","size":1},"subject":{"digest":"`+sum+`"},"annotations":`+text+`}`), "", "")
		if refused := strings.HasPrefix(want, "its "); refused && (err == nil || !strings.Contains(err.Error(), want)) || !refused && (err != nil || string(m.Annotations) != want) {
			t.Errorf("%s is read as %s, %v", text, m.Annotations, err)
		}
	}
}
