package githubtest_test

import (
	"strings"
	"testing"

	nimbus "github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/forge"
)

const orgRunners = "organization_self_hosted_runners"

// grant is what an owner grants who has runners of the organisation.
func grant() map[string]string {
	return map[string]string{"actions": "write", "administration": "write", "checks": "write", "contents": "read", "metadata": "read", orgRunners: "write"}
}

// TestRunnersOfAnOrganisation: where an installation's runners are the
// organisation's, they are registered, listed, found by name and removed there,
// in the runner group that was named.
func TestRunnersOfAnOrganisation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.AddRepository("octo-org", "web")
	job := nimbus.GitHubJob{InstallationID: 2002, Owner: "octo-org", Repo: "web", JobID: 1}
	_, err := w.app.OrganizationPlace(w.ctx, 2002, "builders")
	code(t, err, nimbus.CodeForbidden, "not accessible")
	if !strings.Contains(nimbus.ErrorHint(err), "Self-hosted runners") {
		t.Errorf("the hint is %q", nimbus.ErrorHint(err))
	}
	w.Grant(grant())
	_, err = w.app.OrganizationPlace(w.ctx, 2002, "nobody")
	code(t, err, nimbus.CodeInvalid, "no runner group")
	_, err = w.app.OrganizationPlace(w.ctx, 404, "")
	code(t, err, nimbus.CodeNotFound, "")
	if at, err := w.app.OrganizationPlace(w.ctx, 2002, ""); err != nil || at.GroupID != 1 || at.Group != "Default" {
		t.Errorf("the default group: %+v, %v", at, err)
	}
	at, err := w.app.OrganizationPlace(w.ctx, 2002, "Builders")
	if err != nil || at.GroupID != 7 || at.Organization != "octo-org" {
		t.Fatalf("%+v, %v", at, err)
	}

	w.app.SetPlaces(&forge.Places{Organizations: map[int64]nimbus.RunnerPlace{2002: at}})
	if org := w.app.RunnerOrg(job, []string{"nimbus"}); org != "octo-org" {
		t.Errorf("it would be registered with %q", org)
	}
	r, jit, err := w.app.CreateRunner(w.ctx, job, "nimbus-att_1", []string{"nimbus"})
	if err != nil || r.Org != "octo-org" || jit == "" {
		t.Fatalf("%+v, %v", r, err)
	}
	_, _, err = w.app.CreateRunner(w.ctx, job, "nimbus-att_1", []string{"nimbus"})
	code(t, err, nimbus.CodeConflict, "Already exists")
	org := nimbus.ForgeRepo{InstallationID: 2002, Owner: "octo-org"}
	if list, more, err := w.app.Runners(w.ctx, org, 1); err != nil || more || len(list) != 1 || list[0].Runner != r {
		t.Errorf("%+v %v, %v", list, more, err)
	}
	// Without its place it would be looked for at the repository, and left.
	if err := w.app.RemoveRunner(w.ctx, job, nimbus.Runner{ID: r.ID, Name: r.Name}); err != nil || len(w.Runners()) != 1 {
		t.Errorf("%v, %v", w.Runners(), err)
	}
	if err := w.app.RemoveRunner(w.ctx, job, nimbus.Runner{Name: r.Name, Org: r.Org}); err != nil || len(w.Runners()) != 0 {
		t.Errorf("by its name: %v, %v", w.Runners(), err)
	}

	// Another owner's jobs are not this organisation's.
	if org := w.app.RunnerOrg(nimbus.GitHubJob{InstallationID: 2002, Owner: "octo", Repo: "web"}, nil); org != "" {
		t.Errorf("another owner's runner would be %s's", org)
	}
}

// TestExamineOrganisation: the doctor asks for the permission that an
// organisation's runners take, and only where there are some.
func TestExamineOrganisation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Grant(map[string]string{"actions": "write", "administration": "write", "checks": "write", "contents": "read", "metadata": "read"})
	find := func(name string) (found nimbus.GitHubCheck) {
		for _, c := range w.app.Examine(w.ctx) {
			if c.Name == name {
				found = c
			}
		}
		return found
	}
	for _, name := range []string{"permissions", "installation octo-org"} {
		if c := find(name); c.Status != nimbus.CheckGood {
			t.Errorf("without such runners %s: %+v", name, c)
		}
	}
	w.app.SetPlaces(&forge.Places{Organizations: map[int64]nimbus.RunnerPlace{2002: {InstallationID: 2002, Organization: "octo-org", GroupID: 1}}})
	for _, name := range []string{"permissions", "installation octo-org"} {
		if c := find(name); c.Status != nimbus.CheckFails || !strings.Contains(c.Detail, orgRunners+":write") {
			t.Errorf("%s: %+v", name, c)
		}
	}
	w.Grant(grant())
	if c := find("installation octo-org"); c.Status != nimbus.CheckGood {
		t.Errorf("granted: %+v", c)
	}
}

// TestOrganisationsRunnersTakeAnyRepository: GitHub gives a runner of the
// organisation the oldest job of any of its repositories.
func TestOrganisationsRunnersTakeAnyRepository(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Grant(grant())
	first := w.push(project(oneJob)).Jobs[0]
	job := w.event(first.ID).Job
	w.app.SetPlaces(&forge.Places{Organizations: map[int64]nimbus.RunnerPlace{2002: {InstallationID: 2002, Organization: job.Owner, GroupID: 1}}})
	other := job
	other.Repo = "another"
	w.AddRepository(job.Owner, "another")
	_, jit, err := w.app.CreateRunner(w.ctx, other, "nimbus-att_2", first.Labels)
	if err != nil {
		t.Fatal(err)
	}
	c, err := w.Connect(jit)
	if err != nil {
		t.Fatal(err)
	}
	if id, ok, err := c.Job(); err != nil || !ok || id != first.ID {
		t.Errorf("it has job %d, %v, %v", id, ok, err)
	}
	if err := w.app.RemoveRunner(w.ctx, other, nimbus.Runner{Name: "nimbus-att_2", Org: job.Owner}); nimbus.ErrorCode(err) != nimbus.CodeConflict {
		t.Errorf("a busy one is removed: %v", err)
	}
	if err := c.Finish("success"); err != nil {
		t.Fatal(err)
	}
}
