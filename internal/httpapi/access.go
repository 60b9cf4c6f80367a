package httpapi

import (
	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/api/gen/nimbus/v1/nimbusv1connect"
)

// anybody marks a procedure that needs no token: its request holds one.
const anybody = nimbus.PrincipalKind("")

// access says who may call each procedure. One that isn't here may be called
// by nobody; a test holds the table against the API description.
var access = map[string]nimbus.PrincipalKind{
	nimbusv1connect.JobServiceSubmitJobProcedure:              nimbus.PrincipalAdmin,
	nimbusv1connect.JobServiceGetJobProcedure:                 nimbus.PrincipalAdmin,
	nimbusv1connect.JobServiceListJobsProcedure:               nimbus.PrincipalAdmin,
	nimbusv1connect.JobServiceListJobEventsProcedure:          nimbus.PrincipalAdmin,
	nimbusv1connect.JobServiceCancelJobProcedure:              nimbus.PrincipalAdmin,
	nimbusv1connect.HostServiceListHostsProcedure:             nimbus.PrincipalAdmin,
	nimbusv1connect.HostServiceCreateJoinTokenProcedure:       nimbus.PrincipalAdmin,
	nimbusv1connect.HostServiceCordonHostProcedure:            nimbus.PrincipalAdmin,
	nimbusv1connect.HostServiceRemoveHostProcedure:            nimbus.PrincipalAdmin,
	nimbusv1connect.GitHubServiceListAppsProcedure:            nimbus.PrincipalAdmin,
	nimbusv1connect.GitHubServiceConnectAppProcedure:          nimbus.PrincipalAdmin,
	nimbusv1connect.GitHubServiceConvertManifestProcedure:     nimbus.PrincipalAdmin,
	nimbusv1connect.GitHubServiceRotateWebhookSecretProcedure: nimbus.PrincipalAdmin,
	nimbusv1connect.GitHubServiceRemoveAppProcedure:           nimbus.PrincipalAdmin,
	nimbusv1connect.GitHubServiceListInstallationsProcedure:   nimbus.PrincipalAdmin,
	nimbusv1connect.AgentServiceJoinProcedure:                 anybody,
	nimbusv1connect.AgentServiceHelloProcedure:                nimbus.PrincipalHost,
	nimbusv1connect.AgentServicePollProcedure:                 nimbus.PrincipalHost,
	nimbusv1connect.AgentServiceAcceptProcedure:               nimbus.PrincipalHost,
	nimbusv1connect.AgentServiceHeartbeatProcedure:            nimbus.PrincipalHost,
	nimbusv1connect.AgentServiceReportPhaseProcedure:          nimbus.PrincipalHost,
	nimbusv1connect.AgentServiceCreateRunnerProcedure:         nimbus.PrincipalHost,
	nimbusv1connect.AgentServiceAppendLogProcedure:            nimbus.PrincipalHost,
	nimbusv1connect.AgentServiceFinishAttemptProcedure:        nimbus.PrincipalHost,
}
