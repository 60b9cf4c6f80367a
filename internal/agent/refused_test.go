package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/logs/wal"
)

// fenced is a sandbox whose network refused things.
type fenced struct {
	executor.Sandbox
	refused []executor.Refusal
	err     error
}

func (f fenced) Refused(context.Context) ([]executor.Refusal, error) { return f.refused, f.err }

func TestRefusedIsSaidAtTheEnd(t *testing.T) {
	t.Parallel()
	var many []executor.Refusal
	for i := range 3 * maxRefusedLines {
		many = append(many, executor.Refusal{Kind: executor.RefusedTCP, Target: fmt.Sprintf("10.0.0.1:%d", i), Count: 2})
	}
	w, err := wal.Open(filepath.Join(t.TempDir(), "wal"), walLimit)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	a := &attempt{wal: w, seal: testSeal(), log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	a.sayRefused(t.Context(), &renewed{})                         // without a fence
	a.sayRefused(t.Context(), fenced{})                           // that refused nothing
	a.sayRefused(t.Context(), fenced{err: errors.New("is gone")}) // or is gone
	if last, _ := w.Last(); last != 0 {
		t.Errorf("%d lines of nothing", last)
	}
	a.sayRefused(t.Context(), fenced{refused: many})
	lines, err := w.Read(1, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if len(lines) != maxRefusedLines+1 || lines[0].Text != "nimbus: network: refused 2 connections to 10.0.0.1:0" ||
		!strings.HasSuffix(lines[maxRefusedLines].Text, "refused 24 other things") {
		t.Errorf("%d lines: %v", len(lines), lines)
	}
}
