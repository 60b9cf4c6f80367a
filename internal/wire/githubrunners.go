package wire

import (
	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// RunnerPlace makes the message of where runners are registered.
func RunnerPlace(p nimbus.RunnerPlace) *nimbusv1.RunnerPlace {
	return &nimbusv1.RunnerPlace{InstallationId: p.InstallationID, Organization: p.Organization, Group: p.Group, ChangedAt: Time(p.ChangedAt)}
}

// ToRunnerPlace reads it.
func ToRunnerPlace(m *nimbusv1.RunnerPlace) nimbus.RunnerPlace {
	return nimbus.RunnerPlace{InstallationID: m.GetInstallationId(), Organization: m.GetOrganization(), Group: m.GetGroup(), ChangedAt: ToTime(m.GetChangedAt())}
}

// ScaleSet makes the message of a scale set.
func ScaleSet(s nimbus.ScaleSet) *nimbusv1.ScaleSet {
	return &nimbusv1.ScaleSet{
		Id: s.ID, InstallationId: s.InstallationID, Organization: s.Organization, Group: s.Group, Name: s.Name, Labels: s.Labels,
		MaxRunners: int32(s.MaxRunners), GithubId: s.GitHubID, ChangedAt: Time(s.ChangedAt), HeardAt: Time(s.State.HeardAt),
		Trouble: s.State.Trouble, Assigned: int32(s.State.Assigned), Running: int32(s.State.Running),
	}
}

// ToScaleSet reads it.
func ToScaleSet(m *nimbusv1.ScaleSet) nimbus.ScaleSet {
	return nimbus.ScaleSet{
		ID: m.GetId(), InstallationID: m.GetInstallationId(), Organization: m.GetOrganization(), Group: m.GetGroup(), Name: m.GetName(), Labels: m.GetLabels(),
		MaxRunners: int(m.GetMaxRunners()), GitHubID: m.GetGithubId(), ChangedAt: ToTime(m.GetChangedAt()),
		State: nimbus.ScaleSetState{HeardAt: ToTime(m.GetHeardAt()), Trouble: m.GetTrouble(), Assigned: int(m.GetAssigned()), Running: int(m.GetRunning())},
	}
}
