package cli

import (
	"context"
	"fmt"

	"github.com/nimbus-ci/nimbus/client"
)

type orgTelemetryCmd struct {
	Show orgTelemetryShowCmd `cmd:"" default:"withargs" help:"Show whether the org's jobs have a receiver of OTLP, and how much is kept."`
	On   orgTelemetryOnCmd   `cmd:"" help:"Give them one; for the org's admins."`
	Off  orgTelemetryOffCmd  `cmd:"" help:"Give them none; for the org's admins."`
}

const aboutOrgTelemetry = "Each job has a receiver of OTLP in its sandbox, at 127.0.0.1:4318, which the variables of OpenTelemetry name, unless its org has it otherwise: docs/telemetry.md.\n\n"

type orgTelemetryShowCmd struct{}

func (*orgTelemetryShowCmd) Help() string {
	return aboutOrgTelemetry + usage("nimbus orgs telemetry", "nimbus orgs telemetry --org acme --json | jq .telemetry.bytes")
}

type orgTelemetryView struct {
	On          bool    `json:"on"`
	Bytes       int64   `json:"bytes"`
	QuotaBytes  int64   `json:"quota_bytes"`
	KeptSeconds float64 `json:"kept_seconds"`
}

func (*orgTelemetryShowCmd) Run(ctx context.Context, a *app) error {
	return a.asking(func(cl *client.Client) error { return a.sayOrgTelemetry(ctx, cl) })
}

func (a *app) sayOrgTelemetry(ctx context.Context, cl *client.Client) error {
	o, err := cl.OrgTelemetry(ctx)
	if err != nil {
		return err
	}
	if a.root.JSON {
		return a.printJSON(map[string]any{"telemetry": orgTelemetryView{!o.Off && !o.OffForAll, o.Bytes, o.QuotaBytes, o.KeptFor.Seconds()}})
	}
	words := "jobs have a receiver of OTLP"
	switch {
	case o.OffForAll:
		words = "this server gives no job a receiver of OTLP"
	case o.Off:
		words = "jobs have no receiver of OTLP"
	}
	_, err = fmt.Fprintf(a.Out, "%s; %s of %s are kept, for %s\n", words, size(o.Bytes), size(o.QuotaBytes), days(o.KeptFor))
	return err
}

type orgTelemetryOnCmd struct{}

func (*orgTelemetryOnCmd) Help() string {
	return aboutOrgTelemetry + "It counts for jobs that are given to hosts from now on.\n\n" + usage("nimbus orgs telemetry on", "nimbus orgs telemetry on --org acme")
}

func (*orgTelemetryOnCmd) Run(ctx context.Context, a *app) error { return a.setOrgTelemetry(ctx, true) }

type orgTelemetryOffCmd struct{}

func (*orgTelemetryOffCmd) Help() string {
	return aboutOrgTelemetry + "It counts for jobs that are given to hosts from now on. What was sent stays until it is old enough to go.\n\n" + usage("nimbus orgs telemetry off", "nimbus orgs telemetry off --org acme")
}

func (*orgTelemetryOffCmd) Run(ctx context.Context, a *app) error {
	return a.setOrgTelemetry(ctx, false)
}

func (a *app) setOrgTelemetry(ctx context.Context, on bool) error {
	return a.asking(func(cl *client.Client) error {
		if err := cl.SetOrgTelemetry(ctx, on); err != nil {
			return err
		}
		return a.sayOrgTelemetry(ctx, cl)
	})
}
