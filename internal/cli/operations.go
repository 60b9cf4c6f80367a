package cli

import (
	"net"
	"time"

	"github.com/alecthomas/kong"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/httpapi"
	"github.com/nimbus-ci/nimbus/internal/ratelimit"
	"github.com/nimbus-ci/nimbus/internal/registry"
	"github.com/nimbus-ci/nimbus/internal/server"
	"github.com/nimbus-ci/nimbus/internal/traces"
)

// operationsFlags say how often and from where a server may be called, and where
// its traces go.
type operationsFlags struct {
	LimitSubmit   ratelimit.Rate `help:"How many jobs an org may submit, a second and at once; or off. Default: ${default}." default:"${limit_submit}" env:"NIMBUS_LIMIT_SUBMIT" placeholder:"RATE/BURST"`
	LimitAPI      ratelimit.Rate `help:"How many other calls an org may make. Default: ${default}." name:"limit-api" default:"${limit_api}" env:"NIMBUS_LIMIT_API" placeholder:"RATE/BURST"`
	LimitWebhook  ratelimit.Rate `help:"How many webhooks an installation of a GitHub App may send. Default: ${default}." default:"${limit_webhook}" env:"NIMBUS_LIMIT_WEBHOOK" placeholder:"RATE/BURST"`
	LimitStranger ratelimit.Rate `help:"How many calls without a valid token an address may make. Default: ${default}." default:"${limit_stranger}" env:"NIMBUS_LIMIT_STRANGER" placeholder:"RATE/BURST"`
	LimitHost     ratelimit.Rate `help:"How many calls a host may make. Default: ${default}." default:"${limit_host}" env:"NIMBUS_LIMIT_HOST" placeholder:"RATE/BURST"`

	Artifacts bool `help:"Keep artifacts of jobs (version 4, @actions/artifact) here, for 30 days. GitHub's pages show none of them. Default: jobs have none from here." env:"NIMBUS_ARTIFACTS"`

	CacheStorage   int           `within:"1.." help:"How many GiB of what jobs cache are kept, of all orgs together." default:"200" env:"NIMBUS_CACHE_STORAGE" placeholder:"GIB"`
	CacheOrgQuota  int           `within:"1.." help:"How many of them an org may have that has no quota of its own (nimbus cache quota)." default:"50" env:"NIMBUS_CACHE_ORG_QUOTA" placeholder:"GIB"`
	CacheRepoQuota int           `within:"1.." help:"The same of a repository; it is also how large an entry may be." default:"10" env:"NIMBUS_CACHE_REPO_QUOTA" placeholder:"GIB"`
	CacheRetention time.Duration `within:"1h..8784h" help:"After how long an entry of the cache goes that no job finds, in orgs that have no time of their own (nimbus cache retention)." default:"168h" env:"NIMBUS_CACHE_RETENTION" placeholder:"TIME"`

	RegistryMirrorQuota  int           `within:"1.." help:"How many GiB an org may have of what its mirrors of registries fetched (nimbus registry mirror)." default:"50" env:"NIMBUS_REGISTRY_MIRROR_QUOTA" placeholder:"GIB"`
	RegistryMirrorFresh  time.Duration `within:"1s..24h" help:"How long a mirror believes what a tag stands for." default:"1m" env:"NIMBUS_REGISTRY_MIRROR_FRESH" placeholder:"TIME"`
	RegistryMirrorInside []string      `help:"A registry that mirrors may ask though it is at an address of your own network, also without TLS; may be repeated. Default: none." env:"NIMBUS_REGISTRY_MIRROR_INSIDE" placeholder:"HOST:PORT"`

	AdminFrom    []string `help:"Addresses from which the platform may be administered, and metrics and profiles read; may be repeated. Default: any." env:"NIMBUS_ADMIN_FROM" placeholder:"CIDR"`
	TrustedProxy []string `help:"Addresses of proxies that are believed about whom they forward (X-Forwarded-For); may be repeated. Default: none." env:"NIMBUS_TRUSTED_PROXY" placeholder:"CIDR"`

	NoTelemetry        bool          `help:"Give no job a receiver of OTLP in its sandbox. Default: jobs have one, unless their org does not want it (nimbus orgs telemetry)." env:"NIMBUS_NO_TELEMETRY"`
	TelemetryOrgQuota  int           `within:"1.." help:"How many GiB of what its jobs tell by OTLP are kept of an org, packed." default:"4" env:"NIMBUS_TELEMETRY_ORG_QUOTA" placeholder:"GIB"`
	TelemetryRetention time.Duration `within:"1h..8784h" help:"How long that is kept." default:"720h" env:"NIMBUS_TELEMETRY_RETENTION" placeholder:"TIME"`
	OTLPSendOn         bool          `help:"Send what jobs tell by OTLP to --otlp-endpoint, too." name:"otlp-send-on" env:"NIMBUS_OTLP_SEND_ON"`

	OTLPEndpoint string `help:"Base URL of the OTLP/HTTP endpoint that gets a trace of each job. Default: none." name:"otlp-endpoint" env:"OTEL_EXPORTER_OTLP_ENDPOINT" placeholder:"URL"`
}

// limitVars are the defaults of the limits, as flags name them.
func limitVars() kong.Vars {
	usual := httpapi.DefaultLimits()
	return kong.Vars{
		"limit_submit": usual.Submit.String(), "limit_api": usual.API.String(), "limit_webhook": usual.Webhook.String(),
		"limit_stranger": usual.Stranger.String(), "limit_host": usual.Host.String(),
	}
}

// read checks what the flags say. Codes: invalid.
func (f operationsFlags) read(version string) (server.Operations, error) {
	admin, err := httpapi.ParseOrigins(f.AdminFrom)
	if err != nil {
		return server.Operations{}, badUsage(err)
	}
	proxies, err := httpapi.ParseOrigins(f.TrustedProxy)
	if err != nil {
		return server.Operations{}, badUsage(err)
	}
	for _, address := range f.RegistryMirrorInside {
		if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" {
			return server.Operations{}, badUsage(nimbus.Errorf(nimbus.CodeInvalid, "--registry-mirror-inside %.100q is not HOST:PORT", address))
		}
	}
	return server.Operations{
		Version: version, OTLP: f.OTLPEndpoint, SendOn: f.OTLPSendOn,
		Telemetry: traces.Limits{Off: f.NoTelemetry, Org: int64(f.TelemetryOrgQuota) << 30, Keep: f.TelemetryRetention},
		Limits: httpapi.Limits{
			Submit: f.LimitSubmit, API: f.LimitAPI, Webhook: f.LimitWebhook, Stranger: f.LimitStranger, Host: f.LimitHost,
		},
		Artifacts:    f.Artifacts,
		Registry:     registry.Limits{Mirror: int64(f.RegistryMirrorQuota) << 30, Fresh: f.RegistryMirrorFresh},
		MirrorInside: f.RegistryMirrorInside,
		Cache: cache.Limits{Total: int64(f.CacheStorage) << 30, Org: int64(f.CacheOrgQuota) << 30, Repo: int64(f.CacheRepoQuota) << 30,
			Entry: int64(f.CacheRepoQuota) << 30, Unused: f.CacheRetention},
		Origins: httpapi.Origins{Admin: admin, TrustedProxies: proxies},
	}, nil
}
