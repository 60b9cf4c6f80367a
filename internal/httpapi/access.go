package httpapi

import (
	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/api/gen/nimbus/v1/nimbusv1connect"
)

// rule says who may do something. The zero rule lets nobody.
type rule struct {
	place place
	// least is the role that it takes in the org that the call acts in.
	least nimbus.Role
	// scope is what a token with scopes must have; "" is in every token.
	scope nimbus.Scope
}

// place is where a call acts, which says who may make it.
type place int

const (
	actsNowhere    place = iota // nobody
	actsAnywhere                // anybody, without a token: the request holds one, or tells nothing
	actsAsSelf                  // people and service accounts, of themselves
	actsInOrg                   // those with a role in the org that the call is bound to
	actsOnPlatform              // those who administer the platform
	actsAsHost                  // a host
)

var (
	anybody = rule{place: actsAnywhere}
	person  = rule{place: actsAsSelf}
	aHost   = rule{place: actsAsHost}
)

func inOrg(least nimbus.Role, scope nimbus.Scope) rule {
	return rule{place: actsInOrg, least: least, scope: scope}
}

func onPlatform(scope nimbus.Scope) rule { return rule{place: actsOnPlatform, scope: scope} }

// access says who may call each procedure. One that isn't here may be called
// by nobody; tests hold the table against the API description, and against
// what they expect of each role.
var access = map[string]rule{
	nimbusv1connect.JobServiceSubmitJobProcedure:     inOrg(nimbus.RoleDeveloper, nimbus.ScopeJobsWrite),
	nimbusv1connect.JobServiceGetJobProcedure:        inOrg(nimbus.RoleViewer, nimbus.ScopeJobsRead),
	nimbusv1connect.JobServiceListJobsProcedure:      inOrg(nimbus.RoleViewer, nimbus.ScopeJobsRead),
	nimbusv1connect.JobServiceSummarizeJobsProcedure: inOrg(nimbus.RoleViewer, nimbus.ScopeJobsRead),
	nimbusv1connect.JobServiceListJobEventsProcedure: inOrg(nimbus.RoleViewer, nimbus.ScopeJobsRead),
	nimbusv1connect.JobServiceGetUsageProcedure:      inOrg(nimbus.RoleViewer, nimbus.ScopeJobsRead),
	nimbusv1connect.JobServiceCancelJobProcedure:     inOrg(nimbus.RoleDeveloper, nimbus.ScopeJobsWrite),

	nimbusv1connect.JobServiceRerunJobProcedure:       inOrg(nimbus.RoleDeveloper, nimbus.ScopeJobsWrite),
	nimbusv1connect.JobServiceSetJobPriorityProcedure: inOrg(nimbus.RoleDeveloper, nimbus.ScopeJobsWrite),

	nimbusv1connect.JobServiceReleaseJobProcedure: inOrg(nimbus.RoleDeveloper, nimbus.ScopeJobsWrite),

	// A shell shows the job's secrets to who opens it.
	nimbusv1connect.ShellServiceOpenShellProcedure:    inOrg(nimbus.RoleOperator, nimbus.ScopeShells),
	nimbusv1connect.ShellServiceSendShellProcedure:    inOrg(nimbus.RoleOperator, nimbus.ScopeShells),
	nimbusv1connect.ShellServiceReceiveShellProcedure: inOrg(nimbus.RoleOperator, nimbus.ScopeShells),
	nimbusv1connect.ShellServiceCloseShellProcedure:   inOrg(nimbus.RoleOperator, nimbus.ScopeShells),
	nimbusv1connect.ShellServiceListShellsProcedure:   inOrg(nimbus.RoleViewer, nimbus.ScopeJobsRead),

	nimbusv1connect.QueueServiceGetQueueProcedure:      inOrg(nimbus.RoleViewer, nimbus.ScopeJobsRead),
	nimbusv1connect.QueueServiceListLimitsProcedure:    inOrg(nimbus.RoleViewer, nimbus.ScopeOrgRead),
	nimbusv1connect.QueueServiceSetLimitProcedure:      inOrg(nimbus.RoleOperator, nimbus.ScopeOrgWrite),
	nimbusv1connect.QueueServiceDeleteLimitProcedure:   inOrg(nimbus.RoleOperator, nimbus.ScopeOrgWrite),
	nimbusv1connect.QueueServiceListWeightsProcedure:   inOrg(nimbus.RoleViewer, nimbus.ScopeOrgRead),
	nimbusv1connect.QueueServiceSetRepoWeightProcedure: inOrg(nimbus.RoleOperator, nimbus.ScopeOrgWrite),
	nimbusv1connect.QueueServiceSetOrgWeightProcedure:  onPlatform(nimbus.ScopeOrgWrite), // it is among all orgs

	nimbusv1connect.RerunServiceGetRerunPolicyProcedure: inOrg(nimbus.RoleViewer, nimbus.ScopeOrgRead),
	nimbusv1connect.RerunServiceSetRerunPolicyProcedure: inOrg(nimbus.RoleOperator, nimbus.ScopeOrgWrite),

	nimbusv1connect.LogServiceSearchLogsProcedure:             inOrg(nimbus.RoleViewer, nimbus.ScopeJobsRead),
	nimbusv1connect.LogServiceGetLogStatsProcedure:            inOrg(nimbus.RoleViewer, nimbus.ScopeJobsRead),
	nimbusv1connect.LogServiceGetLogRetentionProcedure:        inOrg(nimbus.RoleViewer, nimbus.ScopeOrgRead),
	nimbusv1connect.LogServiceSetLogRetentionProcedure:        inOrg(nimbus.RoleAdmin, nimbus.ScopeOrgWrite),
	nimbusv1connect.LogServiceSetDefaultLogRetentionProcedure: onPlatform(nimbus.ScopeOrgWrite),

	nimbusv1connect.ReportServiceGetReportProcedure: inOrg(nimbus.RoleViewer, nimbus.ScopeJobsRead),

	nimbusv1connect.HostServiceListHostsProcedure:       onPlatform(nimbus.ScopeHostsRead),
	nimbusv1connect.HostServiceListHostJobsProcedure:    onPlatform(nimbus.ScopeHostsRead),
	nimbusv1connect.HostServiceCreateJoinTokenProcedure: onPlatform(nimbus.ScopeHostsWrite),
	nimbusv1connect.HostServiceCordonHostProcedure:      onPlatform(nimbus.ScopeHostsWrite),
	nimbusv1connect.HostServiceRemoveHostProcedure:      onPlatform(nimbus.ScopeHostsWrite),

	nimbusv1connect.GitHubServiceListAppsProcedure:            onPlatform(nimbus.ScopeOrgRead),
	nimbusv1connect.GitHubServiceConnectAppProcedure:          onPlatform(nimbus.ScopeOrgWrite),
	nimbusv1connect.GitHubServiceConvertManifestProcedure:     onPlatform(nimbus.ScopeOrgWrite),
	nimbusv1connect.GitHubServiceRotateWebhookSecretProcedure: onPlatform(nimbus.ScopeOrgWrite),
	nimbusv1connect.GitHubServiceRemoveAppProcedure:           onPlatform(nimbus.ScopeOrgWrite),
	nimbusv1connect.GitHubServiceListInstallationsProcedure:   onPlatform(nimbus.ScopeOrgRead),
	nimbusv1connect.GitHubServiceExamineAppsProcedure:         onPlatform(nimbus.ScopeOrgWrite),

	nimbusv1connect.GitHubRunnerServiceListRunnerPlacesProcedure: onPlatform(nimbus.ScopeOrgRead),
	nimbusv1connect.GitHubRunnerServiceSetRunnerPlaceProcedure:   onPlatform(nimbus.ScopeOrgWrite),
	nimbusv1connect.GitHubRunnerServiceListScaleSetsProcedure:    onPlatform(nimbus.ScopeOrgRead),
	nimbusv1connect.GitHubRunnerServiceAddScaleSetProcedure:      onPlatform(nimbus.ScopeOrgWrite),
	nimbusv1connect.GitHubRunnerServiceRemoveScaleSetProcedure:   onPlatform(nimbus.ScopeOrgWrite),

	nimbusv1connect.OrgServiceListOrgsProcedure:     {place: actsAsSelf, scope: nimbus.ScopeOrgRead},
	nimbusv1connect.OrgServiceCreateOrgProcedure:    onPlatform(nimbus.ScopeOrgWrite),
	nimbusv1connect.OrgServiceSetOrgOwnersProcedure: onPlatform(nimbus.ScopeOrgWrite),
	nimbusv1connect.OrgServiceDeleteOrgProcedure:    onPlatform(nimbus.ScopeOrgWrite),
	nimbusv1connect.OrgServiceListReposProcedure:    inOrg(nimbus.RoleViewer, nimbus.ScopeOrgRead),
	nimbusv1connect.OrgServiceMoveRepoProcedure:     onPlatform(nimbus.ScopeOrgWrite),

	nimbusv1connect.UserServiceCreateUserProcedure:       onPlatform(nimbus.ScopeOrgWrite),
	nimbusv1connect.UserServiceListUsersProcedure:        onPlatform(nimbus.ScopeOrgRead),
	nimbusv1connect.UserServiceSetPlatformAdminProcedure: onPlatform(nimbus.ScopeOrgWrite),
	nimbusv1connect.UserServiceRemoveUserProcedure:       onPlatform(nimbus.ScopeOrgWrite),

	nimbusv1connect.MemberServiceListMembersProcedure:  inOrg(nimbus.RoleViewer, nimbus.ScopeOrgRead),
	nimbusv1connect.MemberServiceSetMemberProcedure:    inOrg(nimbus.RoleAdmin, nimbus.ScopeOrgWrite),
	nimbusv1connect.MemberServiceRemoveMemberProcedure: inOrg(nimbus.RoleAdmin, nimbus.ScopeOrgWrite),

	nimbusv1connect.ServiceAccountServiceCreateServiceAccountProcedure: inOrg(nimbus.RoleAdmin, nimbus.ScopeOrgWrite),
	nimbusv1connect.ServiceAccountServiceListServiceAccountsProcedure:  inOrg(nimbus.RoleOperator, nimbus.ScopeOrgRead),
	nimbusv1connect.ServiceAccountServiceDeleteServiceAccountProcedure: inOrg(nimbus.RoleAdmin, nimbus.ScopeOrgWrite),

	nimbusv1connect.RateServiceListRatesProcedure: inOrg(nimbus.RoleViewer, nimbus.ScopeOrgRead),
	nimbusv1connect.RateServiceSetRateProcedure:   onPlatform(nimbus.ScopeOrgWrite), // it protects all orgs

	nimbusv1connect.RegistryServiceListRegistryReposProcedure:    inOrg(nimbus.RoleViewer, nimbus.ScopeRegistryRead),
	nimbusv1connect.RegistryServiceListImagesProcedure:           inOrg(nimbus.RoleViewer, nimbus.ScopeRegistryRead),
	nimbusv1connect.RegistryServiceRemoveImagesProcedure:         inOrg(nimbus.RoleOperator, nimbus.ScopeRegistryWrite),
	nimbusv1connect.RegistryServiceSetRegistryRulesProcedure:     inOrg(nimbus.RoleOperator, nimbus.ScopeRegistryWrite),
	nimbusv1connect.RegistryServiceSetRegistryQuotaProcedure:     onPlatform(nimbus.ScopeOrgWrite), // it protects all orgs
	nimbusv1connect.RegistryServiceCollectRegistryProcedure:      onPlatform(nimbus.ScopeRegistryWrite),
	nimbusv1connect.RegistryServiceListRegistryMirrorsProcedure:  inOrg(nimbus.RoleViewer, nimbus.ScopeRegistryRead),
	nimbusv1connect.RegistryServiceSetRegistryMirrorProcedure:    inOrg(nimbus.RoleAdmin, nimbus.ScopeRegistryWrite), // it has the server ask others
	nimbusv1connect.RegistryServiceRemoveRegistryMirrorProcedure: inOrg(nimbus.RoleAdmin, nimbus.ScopeRegistryWrite),

	nimbusv1connect.TelemetryServiceGetTraceProcedure:        inOrg(nimbus.RoleViewer, nimbus.ScopeJobsRead),
	nimbusv1connect.TelemetryServiceListTelemetryProcedure:   inOrg(nimbus.RoleViewer, nimbus.ScopeJobsRead),
	nimbusv1connect.TelemetryServiceGetOrgTelemetryProcedure: inOrg(nimbus.RoleViewer, nimbus.ScopeOrgRead),
	nimbusv1connect.TelemetryServiceSetOrgTelemetryProcedure: inOrg(nimbus.RoleAdmin, nimbus.ScopeOrgWrite),

	nimbusv1connect.OrgCacheServiceGetOrgCacheProcedure: inOrg(nimbus.RoleViewer, nimbus.ScopeOrgRead),
	nimbusv1connect.OrgCacheServiceSetOrgCacheProcedure: inOrg(nimbus.RoleAdmin, nimbus.ScopeOrgWrite),

	nimbusv1connect.CacheServiceListCacheEntriesProcedure:   inOrg(nimbus.RoleViewer, nimbus.ScopeOrgRead),
	nimbusv1connect.CacheServiceGetCacheStatsProcedure:      inOrg(nimbus.RoleViewer, nimbus.ScopeOrgRead),
	nimbusv1connect.CacheServiceRemoveCacheEntriesProcedure: inOrg(nimbus.RoleOperator, nimbus.ScopeOrgWrite),
	// It tells the names of hosts.
	nimbusv1connect.CacheServiceWarmCacheProcedure:         inOrg(nimbus.RoleOperator, nimbus.ScopeOrgWrite),
	nimbusv1connect.CacheServiceGetCacheWarmthProcedure:    inOrg(nimbus.RoleOperator, nimbus.ScopeOrgRead),
	nimbusv1connect.CacheServiceSetRepoCacheQuotaProcedure: inOrg(nimbus.RoleOperator, nimbus.ScopeOrgWrite),
	nimbusv1connect.CacheServiceSetCacheRetentionProcedure: inOrg(nimbus.RoleOperator, nimbus.ScopeOrgWrite),
	nimbusv1connect.CacheServiceSetOrgCacheQuotaProcedure:  onPlatform(nimbus.ScopeOrgWrite), // of the disk that all share

	// What is more than one's own takes the role admin: internal/identity/tokens.go.
	nimbusv1connect.TokenServiceCreateTokenProcedure: inOrg(nimbus.RoleViewer, nimbus.ScopeTokensWrite),
	nimbusv1connect.TokenServiceListTokensProcedure:  inOrg(nimbus.RoleViewer, nimbus.ScopeTokensRead),
	nimbusv1connect.TokenServiceRevokeTokenProcedure: inOrg(nimbus.RoleViewer, nimbus.ScopeTokensWrite),

	// The platform's chain takes an administrator of the platform: audit.go.
	nimbusv1connect.AuditServiceListAuditEntriesProcedure:     inOrg(nimbus.RoleAdmin, nimbus.ScopeAuditRead),
	nimbusv1connect.AuditServiceListAuditCheckpointsProcedure: inOrg(nimbus.RoleAdmin, nimbus.ScopeAuditRead),
	nimbusv1connect.AuditServiceGetAuditKeyProcedure:          inOrg(nimbus.RoleAdmin, nimbus.ScopeAuditRead),

	nimbusv1connect.AgentServiceJoinProcedure:         anybody,
	nimbusv1connect.AgentServiceHelloProcedure:        aHost,
	nimbusv1connect.AgentServicePollProcedure:         aHost,
	nimbusv1connect.AgentServiceAcceptProcedure:       aHost,
	nimbusv1connect.AgentServiceHeartbeatProcedure:    aHost,
	nimbusv1connect.AgentServiceReportPhaseProcedure:  aHost,
	nimbusv1connect.AgentServiceCreateRunnerProcedure: aHost,
	nimbusv1connect.AgentServiceAppendLogProcedure:    aHost,
	nimbusv1connect.AgentServiceReportUsageProcedure:  aHost,

	nimbusv1connect.AgentServiceAppendTelemetryProcedure: aHost,

	nimbusv1connect.AgentServiceFinishAttemptProcedure: aHost,

	nimbusv1connect.AgentServiceCreateCacheTokenProcedure: aHost,

	nimbusv1connect.AgentServiceAttachShellProcedure:       aHost,
	nimbusv1connect.AgentServiceSendShellOutputProcedure:   aHost,
	nimbusv1connect.AgentServiceReceiveShellInputProcedure: aHost,

	nimbusv1connect.SessionServiceOpenSessionProcedure: anybody, // its proof is in it
	nimbusv1connect.SessionServiceEnrollKeyProcedure:   aHost,
}

// routes says the same of what is plain HTTP, by its pattern.
var routes = map[string]rule{
	"GET /api/v1/jobs/stream":           inOrg(nimbus.RoleViewer, nimbus.ScopeJobsRead),
	"GET /api/v1/jobs/{id}/log":         inOrg(nimbus.RoleViewer, nimbus.ScopeJobsRead),
	"GET /api/v1/jobs/{id}/log/outline": inOrg(nimbus.RoleViewer, nimbus.ScopeJobsRead),
	"GET /api/v1/jobs/{id}/log/stream":  inOrg(nimbus.RoleViewer, nimbus.ScopeJobsRead),
	"GET /api/v1/jobs/{id}/trace":       inOrg(nimbus.RoleViewer, nimbus.ScopeJobsRead),
	"GET /api/v1/logs/export":           inOrg(nimbus.RoleAdmin, nimbus.ScopeJobsRead),
	"POST /api/v1/logs/import":          inOrg(nimbus.RoleAdmin, nimbus.ScopeOrgWrite),
	"GET /api/v1/logs/stream":           inOrg(nimbus.RoleViewer, nimbus.ScopeJobsRead),
	// What a terminal showed may be what the log masks by other words.
	"GET /api/v1/jobs/{id}/shells/{shell}/recording": inOrg(nimbus.RoleOperator, nimbus.ScopeJobsRead),

	"PUT /api/v1/workspaces":      inOrg(nimbus.RoleDeveloper, nimbus.ScopeJobsWrite),
	"GET /api/v1/workspaces/{id}": aHost,
	"GET /api/v1/me":              person,
	"POST /api/v1/logins":         person,
	"POST /api/v1/logout":         person,
	"GET /metrics":                onPlatform(nimbus.ScopeMetricsRead),
	"GET /debug/pprof/":           onPlatform(nimbus.ScopeOrgWrite), // a profile tells more than metrics do
	"GET /login":                  anybody,
	"GET /healthz":                anybody,
	"GET /readyz":                 anybody,
	"/webhooks/github":            anybody, // each delivery is signed

	// The cache knows its own tokens, and signs what it gives out.
	cacheTwirp:     anybody,
	cacheArtifacts: anybody,
	cacheV1:        anybody,
	cacheBlobs:     anybody,
	keyedPath:      anybody, // for people: keyed.go

	"/v2/": anybody, // nor does the registry let anybody in whom it does not know

	"/": anybody, // the pages
}
