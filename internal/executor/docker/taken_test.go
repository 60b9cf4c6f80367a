package docker_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/executor/executortest"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// TestNameTaken: the daemon has made what an agent had asked it for that was killed
// since, after the next one looked. The job gets a container all the same.
func TestNameTaken(t *testing.T) {
	cfg, d := config(t)
	e := create(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	sp := spec(t)
	url := fmt.Sprintf("http://docker/containers/create?name=nimbus-%s-%s", cfg.Owner, sp.ID)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(`{"Image":"`+imageName+`","Cmd":["true"]}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	answer, err := testenv.DockerClient(d.Socket).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusCreated {
		t.Fatal(answer.Status)
	}
	s := sandbox(ctx, t, e, sp)
	if out, exit := executortest.Do(ctx, t, s, "echo made"); out != "made\n" || exit.GetCode() != 0 {
		t.Errorf("exit %v, output %q", exit, out)
	}
}
