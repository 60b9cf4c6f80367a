package httpapi

import (
	"fmt"
	"net/http"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// metrics answers in the text format of Prometheus: hosts by state, and the
// jobs that are not finished by state. Labels are few and fixed.
func (a *api) metrics(w http.ResponseWriter, r *http.Request) error {
	hosts, err := a.Hosts.Hosts(r.Context())
	if err != nil {
		return err
	}
	byState := map[nimbus.HostState]int{nimbus.HostReady: 0, nimbus.HostAway: 0}
	leases := 0
	for _, h := range hosts {
		byState[h.State]++
		leases += h.Running
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	fmt.Fprint(w, "# HELP nimbus_hosts Hosts by state.\n# TYPE nimbus_hosts gauge\n")
	for _, state := range []nimbus.HostState{nimbus.HostReady, nimbus.HostAway} {
		fmt.Fprintf(w, "nimbus_hosts{state=%q} %d\n", state, byState[state])
	}
	fmt.Fprintf(w, "# HELP nimbus_leases Leases that hosts hold.\n# TYPE nimbus_leases gauge\nnimbus_leases %d\n", leases)
	fmt.Fprint(w, "# HELP nimbus_jobs_shown Unfinished jobs of the default org by state, of the newest 200 of each.\n# TYPE nimbus_jobs_shown gauge\n")
	for _, state := range nimbus.States() {
		if state == nimbus.StateFinished {
			continue
		}
		page, err := a.Jobs.Jobs(r.Context(), nimbus.DefaultOrgID, scheduler.JobFilter{States: []nimbus.State{state}, PageSize: scheduler.MaxPageSize})
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "nimbus_jobs_shown{state=%q} %d\n", state, len(page.Jobs))
	}
	return nil
}
