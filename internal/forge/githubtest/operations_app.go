package githubtest

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// appOperations are about the App, its installation and its deliveries.
func appOperations() map[string]operation {
	return map[string]operation{
		"apps/get-authenticated":                     getApp,
		"apps/list-installations":                    listInstallations,
		"apps/get-installation":                      getInstallation,
		"apps/get-repo-installation":                 getRepoInstallation,
		"apps/create-installation-access-token":      createToken,
		"apps/list-webhook-deliveries":               listDeliveries,
		"apps/get-webhook-delivery":                  getDelivery,
		"apps/redeliver-webhook-delivery":            redeliver,
		"apps/list-repos-accessible-to-installation": listRepos,
		"meta/get":  getMeta,
		"repos/get": getRepo,
	}
}

func getMeta(*Server, *request) (answer, error) {
	return answer{status: http.StatusOK, body: object{"verifiable_password_authentication": false}}, nil
}

func getApp(s *Server, _ *request) (answer, error) {
	return answer{status: http.StatusOK, body: s.appJSON()}, nil
}

func listInstallations(s *Server, r *request) (answer, error) {
	return answer{status: http.StatusOK, body: page(r, []object{s.installationJSON()})}, nil
}

func getInstallation(s *Server, r *request) (answer, error) {
	if r.number("installation_id") != s.cfg.InstallationID {
		return answer{}, notFound()
	}
	return answer{status: http.StatusOK, body: s.installationJSON()}, nil
}

func getRepoInstallation(s *Server, r *request) (answer, error) {
	if _, err := s.repo(r); err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: s.installationJSON()}, nil
}

func createToken(s *Server, r *request) (answer, error) {
	if r.number("installation_id") != s.cfg.InstallationID {
		return answer{}, notFound()
	}
	if s.suspended {
		return answer{}, &apiError{status: http.StatusForbidden, message: "This installation has been suspended"}
	}
	token, end := s.newToken()
	return answer{status: http.StatusCreated, body: object{
		"token": token, "expires_at": stamp(end), "permissions": s.granted, "repository_selection": "all",
	}}, nil
}

func getRepo(s *Server, r *request) (answer, error) {
	repo, err := s.repo(r)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: s.repositoryJSON(repo)}, nil
}

func listRepos(s *Server, r *request) (answer, error) {
	var all []object
	for _, name := range slices.Sorted(keys(s.repos)) {
		all = append(all, s.repositoryJSON(s.repos[name]))
	}
	return answer{status: http.StatusOK, body: object{"total_count": len(all), "repositories": some(page(r, all))}}, nil
}

func getDelivery(s *Server, r *request) (answer, error) {
	id := r.number("delivery_id")
	i := slices.IndexFunc(s.deliveries, func(d *delivery) bool { return d.id == id })
	if i < 0 {
		return answer{}, notFound()
	}
	out := s.deliveries[i].json()
	out["url"] = s.webhookURL
	out["request"] = object{"headers": object{"X-GitHub-Delivery": s.deliveries[i].guid}, "payload": object{}}
	out["response"] = object{"headers": object{}, "payload": nil}
	return answer{status: http.StatusOK, body: out}, nil
}

// listDeliveries pages back from the newest; the cursor is the id before which
// the next page begins.
func listDeliveries(s *Server, r *request) (answer, error) {
	s.forgetDeliveries()
	before := int64(atoi(r.URL.Query().Get("cursor"), 1<<62))
	size := min(max(atoi(r.URL.Query().Get("per_page"), 30), 1), 100)
	header := http.Header{}
	var out []object
	for _, d := range slices.Backward(s.deliveries) {
		if d.id >= before || !d.matches(r.URL.Query().Get("status")) {
			continue
		}
		if len(out) == size {
			header.Set("Link", fmt.Sprintf(`<%s/app/hook/deliveries?per_page=%d&cursor=%d>; rel="next"`, s.url, size, before))
			break
		}
		out, before = append(out, d.json()), d.id
	}
	return answer{http.StatusOK, some(out), header}, nil
}

// redeliver sends a delivery again, under its old GUID.
func redeliver(s *Server, r *request) (answer, error) {
	s.forgetDeliveries()
	id := r.number("delivery_id")
	i := slices.IndexFunc(s.deliveries, func(d *delivery) bool { return d.id == id })
	if i < 0 {
		return answer{}, notFound()
	}
	again := s.deliveries[i].again(s.nextID())
	s.post(again)
	return answer{status: http.StatusAccepted, body: object{}}, nil
}

// matches is the status filter of the listing.
func (d *delivery) matches(status string) bool {
	ok := strconv.Itoa(d.statusCode)[0] == '2'
	switch strings.ToLower(status) {
	case "success":
		return ok
	case "failure":
		return !ok
	}
	return true
}
