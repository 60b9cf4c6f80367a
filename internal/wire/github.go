package wire

import (
	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// GitHubApp makes the message of an App.
func GitHubApp(a nimbus.GitHubApp) *nimbusv1.GitHubApp {
	return &nimbusv1.GitHubApp{
		AppId: a.ID, Slug: a.Slug, ApiUrl: a.APIURL, HtmlUrl: a.HTMLURL, WebhookSecrets: int32(a.WebhookSecrets), ChangedAt: Time(a.ChangedAt),
	}
}

// ToGitHubApp reads it.
func ToGitHubApp(m *nimbusv1.GitHubApp) nimbus.GitHubApp {
	return nimbus.GitHubApp{
		ID: m.GetAppId(), Slug: m.GetSlug(), APIURL: m.GetApiUrl(), HTMLURL: m.GetHtmlUrl(),
		WebhookSecrets: int(m.GetWebhookSecrets()), ChangedAt: ToTime(m.GetChangedAt()),
	}
}

// GitHubInstallation makes the message of an installation.
func GitHubInstallation(i nimbus.GitHubInstallation) *nimbusv1.GitHubInstallation {
	return &nimbusv1.GitHubInstallation{
		Id: i.ID, AppId: i.AppID, Account: i.Account, AccountType: i.AccountType, Repositories: i.Repositories,
		Suspended: i.Suspended, MissingPermissions: i.MissingPermissions,
	}
}

// ToGitHubInstallation reads it.
func ToGitHubInstallation(m *nimbusv1.GitHubInstallation) nimbus.GitHubInstallation {
	return nimbus.GitHubInstallation{
		ID: m.GetId(), AppID: m.GetAppId(), Account: m.GetAccount(), AccountType: m.GetAccountType(), Repositories: m.GetRepositories(),
		Suspended: m.GetSuspended(), MissingPermissions: m.GetMissingPermissions(),
	}
}

// GitHubCheck makes the message of a check.
func GitHubCheck(c nimbus.GitHubCheck) *nimbusv1.GitHubCheck {
	return &nimbusv1.GitHubCheck{AppId: c.AppID, Name: c.Name, Status: string(c.Status), Detail: c.Detail, Hint: c.Hint}
}

// ToGitHubCheck reads it.
func ToGitHubCheck(m *nimbusv1.GitHubCheck) nimbus.GitHubCheck {
	return nimbus.GitHubCheck{AppID: m.GetAppId(), Name: m.GetName(), Status: nimbus.CheckStatus(m.GetStatus()), Detail: m.GetDetail(), Hint: m.GetHint()}
}
