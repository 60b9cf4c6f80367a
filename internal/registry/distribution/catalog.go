package distribution

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/registry"
)

// next tells where the page after is.
func (c *call) next(path string, pairs ...string) { setNext(c.w, path, pairs...) }

func setNext(w http.ResponseWriter, path string, pairs ...string) {
	query := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			query.Set(pairs[i], pairs[i+1])
		}
	}
	w.Header().Set("Link", "<"+(&url.URL{Path: path, RawQuery: query.Encode()}).String()+`>; rel="next"`)
}

// catalogScope is what a token is asked for that is to list repositories; that its
// owner may is looked at when it is used.
const catalogScope = "registry:catalog:*"

// catalog lists the repositories of the orgs that the caller administers.
func (h *Handler) catalog(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet {
		return &methodError{methods: map[string]method{http.MethodGet: {}}}
	}
	c, err := h.caller(r)
	if err != nil {
		return challenged(err, catalogScope, "")
	}
	if c.bound && !slices.ContainsFunc(c.grants, func(g grant) bool { return g.Name == catalogScope }) {
		return challenged(registry.Refuse(registry.Denied, nimbus.CodeForbidden, "the token is not for the catalog"), catalogScope, "insufficient_scope")
	}
	most, after, err := page(r)
	if err != nil {
		return err
	}
	orgs, err := h.administered(r, c)
	if err != nil {
		return err
	}
	if len(orgs) == 0 {
		return registry.Refuse(registry.Denied, nimbus.CodeForbidden, "the catalog takes the role admin in an org")
	}
	names, more, err := h.reposOf(r, orgs, after, most)
	if err != nil {
		return err
	}
	if more && len(names) > 0 {
		setNext(w, r.URL.Path, "n", fmt.Sprint(most), "last", names[len(names)-1])
	}
	writeJSON(w, http.StatusOK, struct {
		Repositories []string `json:"repositories"`
	}{names})
	return nil
}

// mostCatalogOrgs is of how many orgs the catalog tells.
const mostCatalogOrgs = 1000

// administered are the orgs that a caller administers, by name.
func (h *Handler) administered(r *http.Request, c *caller) (orgs []nimbus.Org, err error) {
	if !c.May(nimbus.ScopeRegistryRead) || !c.Person() {
		return nil, nil
	}
	for _, m := range c.Orgs {
		if m.Role.Includes(nimbus.RoleAdmin) {
			orgs = append(orgs, nimbus.Org{ID: m.OrgID, Name: m.OrgName})
		}
	}
	if c.Platform {
		orgs = nil
		for token := ""; len(orgs) < mostCatalogOrgs; {
			page, next, err := h.Identity.Orgs(r.Context(), c.Principal, nimbus.PageRequest{Size: nimbus.MaxPageSize, Token: token})
			if err != nil {
				return nil, fmt.Errorf("list orgs: %w", err)
			}
			if orgs, token = append(orgs, page...), next; next == "" {
				break
			}
		}
	}
	slices.SortFunc(orgs, func(a, b nimbus.Org) int { return strings.Compare(a.Name, b.Name) })
	return orgs, nil
}

// reposOf are the repositories of orgs behind one, org by org.
func (h *Handler) reposOf(r *http.Request, orgs []nimbus.Org, after string, most int) (names []string, more bool, err error) {
	afterOrg, afterRepo, _ := strings.Cut(after, "/")
	names = []string{}
	for _, o := range orgs {
		if o.Name < afterOrg {
			continue
		}
		page := nimbus.PageRequest{Size: nimbus.MaxPageSize}
		if o.Name == afterOrg {
			page.Token = afterRepo
		}
		for {
			repos, next, err := h.Registry.Repos(r.Context(), o.ID, page)
			if err != nil {
				return nil, false, fmt.Errorf("list repositories: %w", err)
			}
			for _, repo := range repos {
				if len(names) == most {
					return names, true, nil
				}
				names = append(names, o.Name+"/"+repo.Name)
			}
			if page.Token = next; next == "" {
				break
			}
		}
	}
	return names, false, nil
}
