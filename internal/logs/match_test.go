package logs_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
)

func TestQueriesAreBounded(t *testing.T) {
	t.Parallel()
	for name, q := range map[string]logs.Query{
		"long text":      {Text: strings.Repeat("x", 1001)},
		"two lines":      {Text: "a\nb"},
		"large page":     {Limit: logs.MaxPage + 1},
		"negative page":  {Limit: -1},
		"bad pattern":    {Text: "(", Pattern: true},
		"large pattern":  {Text: "((a{1,20}){1,20}){1,20}", Pattern: true},
		"no position":    {After: "elsewhere"},
		"other position": {After: "job_00000000000000000000000000:1"},
		"no level":       {Level: 9},
	} {
		if _, err := q.Compile(); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMatch(t *testing.T) {
	t.Parallel()
	at := time.Unix(1_700_000_000, 0)
	line := nimbus.Line{Seq: 7, At: at, Stream: nimbus.StreamStderr, Step: 2, Text: "cannot open: disk is full"}
	for _, c := range []struct {
		q    logs.Query
		want bool
	}{
		{logs.Query{}, true},
		{logs.Query{Text: "disk is"}, true},
		{logs.Query{Text: "Disk is"}, false},
		{logs.Query{Text: `^cannot (open|read)`, Pattern: true}, true},
		{logs.Query{Text: `(?i)DISK.*full$`, Pattern: true}, true},
		{logs.Query{Text: `^disk`, Pattern: true}, false},
		{logs.Query{Step: 2, Level: logs.LevelError}, true},
		{logs.Query{Step: 1}, false},
		{logs.Query{Streams: []nimbus.Stream{nimbus.StreamStdout}}, false},
		{logs.Query{Streams: []nimbus.Stream{nimbus.StreamStdout, nimbus.StreamStderr}}, true},
		{logs.Query{Since: at, Until: at.Add(1)}, true},
		{logs.Query{Since: at.Add(1)}, false},
		{logs.Query{Until: at}, false},
	} {
		m, err := c.q.Compile()
		if err != nil {
			t.Fatal(err)
		}
		if got := m.Line(line, logs.LevelError) && m.Text(line.Text); got != c.want {
			t.Errorf("%+v: %v", c.q, got)
		}
		if c.want && !strings.Contains(line.Text, m.Literal()) {
			t.Errorf("%+v: the literal is %q", c.q, m.Literal())
		}
	}
}

func TestPositions(t *testing.T) {
	t.Parallel()
	older, newer := nimbus.FirstID(nimbus.PrefixAttempt, time.Unix(1, 0)), nimbus.FirstID(nimbus.PrefixAttempt, time.Unix(2, 0))
	p, err := logs.ParsePosition(logs.Position{AttemptID: newer, Seq: 5}.String())
	if err != nil || p.From(newer) != 6 || p.From(older) != 1 {
		t.Errorf("%+v, %v", p, err)
	}
	p.AttemptID = older
	if p.From(newer) != 0 || (logs.Position{}).From(newer) != 1 {
		t.Error("what came before is looked at again, or the first page at nothing")
	}
}
