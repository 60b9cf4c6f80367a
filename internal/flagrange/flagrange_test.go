package flagrange_test

import (
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/flagrange"
)

type line struct {
	Do struct {
		CPU     int           `within:"1..512"`
		Wait    time.Duration `within:"1s..24h"`
		Keep    time.Duration `within:"0s.." default:"1h"`
		ID      int64         `within:"1.."`
		Size    *int          `within:"0..9"`
		GiB     float64       `within:"0.001..10.5" name:"gib" default:"10"`
		Share   *float64      `within:"0.5.."`
		Percent int           `arg:"" optional:"" within:"1..10000"`
	} `cmd:""`
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"do":                      "",
		"do --cpu 1 --wait 24h":   "",
		"do --cpu 512 --keep 0s":  "",
		"do 10000":                "",
		"do --cpu 0":              "--cpu is 0; allowed is 1 to 512",
		"do --cpu 513":            "--cpu is 513; allowed is 1 to 512",
		"do --cpu=-1":             "--cpu is -1; allowed is 1 to 512",
		"do --wait 0":             "--wait is 0s; allowed is 1s to 24h",
		"do --wait 0s":            "--wait is 0s; allowed is 1s to 24h",
		"do --wait 24h1s":         "--wait is 24h0m1s; allowed is 1s to 24h",
		"do --keep=-1ms":          "--keep is -1ms; allowed is 0s or more",
		"do --id 0":               "--id is 0; allowed is 1 or more",
		"do 0":                    "<percent> is 0; allowed is 1 to 10000",
		"do --id 9000000000 1":    "",
		"do --size 0":             "",
		"do --size 9":             "",
		"do --size 10":            "--size is 10; allowed is 0 to 9",
		"do --gib 0.001":          "",
		"do --gib 10.5":           "",
		"do --gib 0.0009":         "--gib is 0.0009; allowed is 0.001 to 10.5",
		"do --gib 10.51":          "--gib is 10.51; allowed is 0.001 to 10.5",
		"do --gib NaN":            "--gib is NaN; allowed is 0.001 to 10.5",
		"do --gib=-Inf":           "--gib is -Inf; allowed is 0.001 to 10.5",
		"do --share 1e9":          "",
		"do --share Inf":          "--share is +Inf; allowed is 0.5 or more",
		"do --share 0.4":          "--share is 0.4; allowed is 0.5 or more",
		"do --id 9 --cpu 600 100": "--cpu is 600",
	} {
		p, err := kong.New(&line{})
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := p.Parse(strings.Fields(args))
		if err == nil {
			err = flagrange.Check(parsed)
			if want != "" && nimbus.ErrorCode(err) != nimbus.CodeInvalid {
				t.Errorf("%s: code %q", args, nimbus.ErrorCode(err))
			}
		}
		if got := text(err); (want == "") != (err == nil) || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", args, got, want)
		}
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
