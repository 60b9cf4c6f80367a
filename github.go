package nimbus

import "time"

// GitHubApp is a GitHub App that is connected, without its secrets.
type GitHubApp struct {
	ID             int64
	Slug           string // in its addresses at GitHub
	APIURL         string // https://api.github.com, or that of a GitHub Enterprise Server
	HTMLURL        string // where a person sees it
	WebhookSecrets int    // how many are taken: 2 while one is rotated
	ChangedAt      time.Time
}

// GitHubInstallation is a GitHub App at one owner.
type GitHubInstallation struct {
	ID                 int64
	AppID              int64
	Account            string // the owner
	AccountType        string // User, Organization or Enterprise
	Repositories       string // all, or selected
	Suspended          bool
	MissingPermissions []string // what the owner did not grant yet, "administration:write"
}

// CheckStatus is how something stands that was looked at.
type CheckStatus string

// The statuses.
const (
	CheckGood  CheckStatus = "ok"
	CheckWarns CheckStatus = "warn" // works, but not for everybody or not for long
	CheckFails CheckStatus = "fail"
)

// GitHubCheck is one thing that a GitHub App needs, and how it stands.
type GitHubCheck struct {
	AppID  int64
	Name   string
	Status CheckStatus
	Detail string
	Hint   string // the next step
}
