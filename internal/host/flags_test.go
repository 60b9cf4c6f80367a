package host_test

import (
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/host"
)

func TestImageMirrorFlag(t *testing.T) {
	t.Parallel()
	var cfg host.Config
	must(t, host.MicroVMFlags{ImageMirror: map[string]string{"docker.io": "nimbus.example/acme/docker.io"}}.Apply(&cfg))
	if got := cfg.Containers.Mirrors["index.docker.io"]; got != "nimbus.example/acme/docker.io" {
		t.Errorf("it is %q", got)
	}
	err := host.MicroVMFlags{ImageMirror: map[string]string{"docker.io": "https://nimbus.example/acme"}}.Apply(&cfg)
	if nimbus.ErrorCode(err) != nimbus.CodeInvalid || !strings.Contains(err.Error(), "--image-mirror") || nimbus.ErrorHint(err) == "" {
		t.Errorf("an address: %v; %s", err, nimbus.ErrorHint(err))
	}
}
