package nimbus

// AuditOutcome is what came of something that was asked for.
type AuditOutcome string

// The outcomes.
const (
	AuditAllowed AuditOutcome = "allowed"
	AuditDenied  AuditOutcome = "denied"
)

// AuditEvent is something that an auditor may ask about one day: a grant, the
// use of an administrator's power, a refusal. It is written in the transaction
// of its effect. No field may hold a secret.
type AuditEvent struct {
	OrgID   string // "" for the platform's own
	Actor   string // as Principal.Actor tells it
	Action  string // noun.verb: "token.create", "host.cordon"
	Target  string // id of what it was done to
	Outcome AuditOutcome
	Detail  map[string]string // what else is worth knowing
	Count   int64             // how many alike it stands for; 0 means 1
}
