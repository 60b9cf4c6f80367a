package microvm_test

import (
	"context"
	"testing"

	aievalrunner "github.com/nimbus-ci/nimbus/images/ai-eval-runner"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/imagetest"
)

// TestAIEvalRunner boots the image and uses what it has more than runner. What
// promptfoo and the reporter do is tried outside of machines, which are slow
// where they are emulated: see package debian.
func TestAIEvalRunner(t *testing.T) {
	cfg := config(t)
	cfg.Images = imagetest.AIEvalRunner(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	e := microvm.New(cfg)
	sp := spec(t)
	sp.Class.Image, sp.Class.MemoryMiB = aievalrunner.Name, 768
	s, err := e.Create(ctx, sp)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Destroy(context.Background())
	out, exit := run(ctx, t, s, `
		node -e 'const { Ollama } = await import("ollama"); console.log(process.version.split(".")[0], typeof new Ollama().chat)' --input-type=module
		python3 -c 'import ssl, venv, sqlite3; print("python")'
		npm --version | cut -d. -f1
		test -x "$(readlink -f /opt/evals/node_modules/.bin/promptfoo)" && command -v promptfoo git
		nimbus-eval-report 2>&1 | cut -d: -f1,2; exit 0`)
	want := "v22 function\npython\n10\n/usr/local/bin/promptfoo\n/usr/bin/git\nnimbus-eval-report: usage\n"
	if out != want || exit.GetCode() != 0 {
		t.Errorf("got %q, %v", out, exit)
	}
}
