package storetest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// testList compares every combination of filters with the same done in memory.
func testList(t *testing.T, b *books) {
	jobs := b.listed()
	for _, states := range [][]nimbus.State{nil, {nimbus.StatePending}, {nimbus.StatePending, nimbus.StateQueued}, {nimbus.StateFinished, nimbus.StateQueued}} {
		for _, labels := range [][]string{nil, {"Docker"}, {"nimbus"}, {"docker", "cpu:2", "NIMBUS"}, {"dock%"}} {
			for _, metadata := range []map[string]string{nil, {"seed": ""}, {"seed": "1", "model": "A"}, {"model": "a"}, {"nightly": ""}} {
				for _, result := range []nimbus.Result{"", nimbus.ResultSuccess, nimbus.ResultCancelled} {
					for _, repo := range []string{"", "Octo/0", "octo/none"} {
						compareList(t, b, jobs, scheduler.JobFilter{States: states, Labels: labels, Metadata: metadata, Result: result, Repo: repo})
					}
				}
			}
		}
	}
	for _, f := range []scheduler.JobFilter{
		{Since: jobs[10].Timeline.AdmittedAt}, {Until: jobs[10].Timeline.AdmittedAt},
		{Since: jobs[5].Timeline.AdmittedAt, Until: jobs[30].Timeline.AdmittedAt, Labels: []string{"docker"}},
		{PageToken: jobs[20].ID, Labels: []string{"docker"}}, {PageToken: jobs[20].ID}, {PageSize: 3}, {PageSize: 3, Labels: []string{"docker"}},
	} {
		compareList(t, b, jobs, f)
	}
}

// listed makes jobs of every kind, a second apart.
func (b *books) listed() (jobs []*scheduler.JobRecord) {
	const n = 48
	var repos [2]string
	b.update(func(ctx context.Context, tx scheduler.Tx) error {
		for i := range repos {
			id, _, err := tx.Repo(ctx, fmt.Sprintf("octo/%d", i))
			if err != nil {
				return err
			}
			repos[i] = id
		}
		return nil
	})
	for i := range n {
		if err := b.OffsetClock(b.t.Context(), time.Duration(i)*time.Second); err != nil {
			b.t.Fatal(err)
		}
		j := b.job(func(j *scheduler.JobRecord) {
			j.Labels = []string{"Nimbus"}[:i%2]
			j.Metadata = map[string]string{}
			if i%3 == 0 {
				j.Labels, j.Metadata["seed"] = append(j.Labels, "docker", "docker"), fmt.Sprint(i%2)
			}
			if i%4 == 0 {
				j.Labels, j.Metadata["model"], j.Metadata["nightly"] = append(j.Labels, "CPU:2"), "A", ""
			}
			if i%2 == 1 {
				j.RepoID, j.Repo = repos[i%4/2], fmt.Sprintf("octo/%d", i%4/2)
			}
		})
		switch i % 5 {
		case 1:
			b.to(j, nimbus.StateQueued)
		case 2:
			b.end(j, nimbus.ResultCancelled)
		case 3:
			b.to(j, paths[nimbus.StateRunning]...)
			b.end(j, nimbus.ResultSuccess)
		}
		jobs = append(jobs, j)
	}
	return jobs
}

func (b *books) end(j *scheduler.JobRecord, r nimbus.Result) {
	b.t.Helper()
	b.update(func(ctx context.Context, tx scheduler.Tx) error {
		return tx.MoveJob(ctx, j, scheduler.Move{To: nimbus.StateFinished, Result: r, Actor: "test"})
	})
}

func compareList(t *testing.T, b *books, jobs []*scheduler.JobRecord, f scheduler.JobFilter) {
	t.Helper()
	if f.PageSize == 0 {
		f.PageSize = 100
	}
	var want, got []string
	for _, j := range slices.Backward(jobs) {
		if passes(j, f) && len(want) < f.PageSize {
			want = append(want, j.ID)
		}
	}
	err := b.View(t.Context(), func(r scheduler.Reader) error {
		page, err := r.Jobs(t.Context(), nimbus.DefaultOrgID, f)
		for _, j := range page {
			got = append(got, j.ID)
		}
		return err
	})
	if err != nil {
		t.Fatalf("%+v: %v", f, err)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("%+v\n-want +got:\n%s", f, diff)
	}
	compareOutcomes(t, b, jobs, f, want)
}

// compareOutcomes: what is summed up is what is listed.
func compareOutcomes(t *testing.T, b *books, jobs []*scheduler.JobRecord, f scheduler.JobFilter, ids []string) {
	t.Helper()
	var want, got []nimbus.JobOutcome
	for _, id := range ids {
		j := jobs[slices.IndexFunc(jobs, func(j *scheduler.JobRecord) bool { return j.ID == id })]
		want = append(want, nimbus.JobOutcome{AdmittedAt: j.Timeline.AdmittedAt, Result: j.Result, Ran: -1, Metadata: j.Metadata})
	}
	err := b.View(t.Context(), func(r scheduler.Reader) error {
		return r.Outcomes(t.Context(), nimbus.DefaultOrgID, f, func(j nimbus.JobOutcome) { got = append(got, j) })
	})
	if err != nil {
		t.Fatalf("%+v: %v", f, err)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("outcomes of %+v\n-want +got:\n%s", f, diff)
	}
}

// passes is what a filter means.
func passes(j *scheduler.JobRecord, f scheduler.JobFilter) bool {
	for _, label := range f.Labels {
		if !slices.ContainsFunc(j.Labels, func(l string) bool { return strings.EqualFold(l, label) }) {
			return false
		}
	}
	for key, value := range f.Metadata {
		if has, ok := j.Metadata[key]; !ok || value != "" && has != value {
			return false
		}
	}
	at := j.Timeline.AdmittedAt.UnixMilli()
	switch {
	case len(f.States) > 0 && !slices.Contains(f.States, j.State), f.Result != "" && j.Result != f.Result,
		f.Repo != "" && !strings.EqualFold(j.Repo, f.Repo),
		!f.Since.IsZero() && at < f.Since.UnixMilli(), !f.Until.IsZero() && at >= f.Until.UnixMilli():
		return false
	}
	return f.PageToken == "" || j.ID < f.PageToken
}
