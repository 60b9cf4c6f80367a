package identity

import "github.com/nimbus-ci/nimbus/internal/bearer"

// Kind is what a token is for; it can be read off the token.
type Kind string

// The kinds.
const (
	KindAdmin   Kind = "admin"
	KindUser    Kind = "user"
	KindAccount Kind = "account"
	KindJoin    Kind = "join"
	KindHost    Kind = "host"
	KindJob     Kind = "job"
	KindLogin   Kind = "login"
	KindSession Kind = "session"
)

func newToken(k Kind) string { return bearer.New(string(k)) }

// parse reads a token's kind and checks its form. Its error never holds the token.
func parse(token string) (Kind, error) {
	kind, err := bearer.Parse(token)
	return Kind(kind), err
}

// version is that of how a token is kept, in its row. Of another one nothing is
// believed.
const version = 1

// hash is how a token is kept.
func hash(token string) string { return bearer.Hash(token) }
