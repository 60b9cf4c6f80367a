package terminal

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestOnlyTerminalsGetColours(t *testing.T) {
	t.Parallel()
	if got := StyleOf(&bytes.Buffer{}).Bad("text"); got != "text" {
		t.Errorf("got %q", got)
	}
	if got := (Style{on: true}).Bad("text"); !strings.HasPrefix(got, "\x1b[") || !strings.HasSuffix(got, "\x1b[0m") {
		t.Errorf("got %q", got)
	}
}

func TestOneLine(t *testing.T) {
	t.Parallel()
	if got := OneLine("a\x1b[31mb\nc\u202ed é"); got != "a [31mb c d é" {
		t.Errorf("got %q", got)
	}
}

func TestProgressIsForWhatTakesLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var short, long bytes.Buffer
		stop := Progress(&short, func() string { return "x" })
		time.Sleep(999 * time.Millisecond)
		stop()
		stop = Progress(&long, func() string { return "x" })
		time.Sleep(5500 * time.Millisecond)
		stop()
		stop()
		if short.String() != "" || long.String() != "x\n" {
			t.Errorf("short %q, long %q", short.String(), long.String())
		}
	})
}
