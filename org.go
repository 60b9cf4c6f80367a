package nimbus

import "time"

// DefaultOrg is the org of the embedded profile: GitHub owners that are not
// mapped to another org belong to it.
const DefaultOrg = "default"

// DefaultOrgID is the id of DefaultOrg, which every database holds from its
// first migration on.
const DefaultOrgID = "org_00000000000000000000000000"

// Org is a tenant. Every row, key, path and token of a tenant carries its id.
type Org struct {
	ID        string
	Name      string // unique, lower case
	CreatedAt time.Time
	// Owners are the GitHub owners whose repositories come into it when their
	// first job does; lower case.
	Owners []string
}

// MaxOrgNameBytes bounds the name of an org.
const MaxOrgNameBytes = 40

// CheckOrgName tells whether an org may be called so: lower-case letters,
// digits and dashes, beginning with a letter. Names stand in paths and URLs.
func CheckOrgName(name string) error {
	ok := name != "" && len(name) <= MaxOrgNameBytes && name[0] >= 'a' && name[0] <= 'z' && name[len(name)-1] != '-'
	for _, c := range name {
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-')
	}
	if !ok {
		return Errorf(CodeInvalid, "%q can't be the name of an org", clip(name)).
			WithHint("a name has up to %d lower-case letters, digits and dashes, and begins with a letter", MaxOrgNameBytes)
	}
	return nil
}

// Repo is a repository at GitHub. Its jobs to come are those of its org.
type Repo struct {
	ID        string
	OrgID     string
	Name      string // "owner/name", lower case
	CreatedAt time.Time
}

// User is a person. There are no passwords: one signs in by a link that works
// once.
type User struct {
	ID        string
	Email     string // unique, lower case
	Name      string
	Platform  bool // may administer the platform, and act in every org
	CreatedAt time.Time
	Orgs      []Membership
}

// Membership is a role of somebody in an org.
type Membership struct {
	OrgID    string
	OrgName  string
	UserID   string
	Email    string
	Name     string // of the user
	Role     Role
	JoinedAt time.Time
}

// ServiceAccount is a program of an org that has tokens of its own.
type ServiceAccount struct {
	ID        string
	OrgID     string
	Name      string // unique in its org
	Role      Role
	CreatedAt time.Time
	CreatedBy string // as Principal.Actor tells it
}

// PageRequest asks for a part of a list.
type PageRequest struct {
	Size  int    // at most MaxPageSize; 0 means DefaultPageSize
	Token string // of the page before; "" for the first
}

// Sizes of a page.
const (
	DefaultPageSize = 50
	MaxPageSize     = 200
)

// Bounded is the request within its bounds.
func (p PageRequest) Bounded() PageRequest {
	if p.Size <= 0 {
		p.Size = DefaultPageSize
	}
	p.Size = min(p.Size, MaxPageSize)
	return p
}
