package nimbus

// RateKind is what a rate of an org is of.
type RateKind string

// The kinds of rates.
const (
	RateWebhooks    RateKind = "webhooks"    // of each installation whose GitHub owner is the org's
	RateSubmissions RateKind = "submissions" // of native jobs
	RateAPI         RateKind = "api"         // of all other calls
)

// RateKinds returns all kinds.
func RateKinds() []RateKind { return []RateKind{RateAPI, RateSubmissions, RateWebhooks} }

// OrgRate is how often an org may call, where that is not the usual.
type OrgRate struct {
	OrgID string
	Kind  RateKind
	Rate  string // "PER_SECOND/BURST", or "off" for no limit
}
