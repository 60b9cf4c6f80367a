package storetest

import (
	"cmp"
	"context"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// testAttemptsOf compares what is found of two orgs, which have jobs of the same
// metadata, with the same done in memory.
func testAttemptsOf(t *testing.T, b *books) {
	ctx := t.Context()
	acme := nimbus.NewID(nimbus.PrefixOrg, time.Now())
	orgs := []string{nimbus.DefaultOrgID, acme}
	if err := b.CreateOrg(ctx, nimbus.Org{ID: acme, Name: "acme", Owners: []string{"acme"}}, nimbus.AuditEvent{OrgID: acme, Action: "org.create", Outcome: nimbus.AuditAllowed}); err != nil {
		t.Fatal(err)
	}
	type attempt struct {
		id  string
		job *scheduler.JobRecord
	}
	repos, ids := []string{"octo/hello", "acme/hello"}, [2]string{}
	b.update(func(ctx context.Context, tx scheduler.Tx) (err error) {
		for i, name := range repos {
			if ids[i], _, err = tx.Repo(ctx, name); err != nil {
				return err
			}
		}
		return nil
	})
	var all []attempt
	for i := range 24 {
		j := b.job(func(j *scheduler.JobRecord) {
			j.OrgID = orgs[i%2]
			j.Metadata = []map[string]string{nil, {"model": "A"}, {"model": "A", "seed": "1"}, {"model": "a", "nightly": ""}}[i/2%4]
			if i%3 > 0 {
				j.RepoID, j.Repo = ids[i%2], repos[i%2]
			}
		})
		for range 1 + i%5/4 {
			all = append(all, attempt{b.attempt(j, scheduler.AttemptEnded).AttemptID, j})
		}
	}
	slices.SortFunc(all, func(x, y attempt) int { return cmp.Compare(y.id, x.id) })
	newest := all[0]
	if o, err := b.JobOfLog(ctx, newest.job.OrgID, newest.id); err != nil || o != (logs.Owner{JobID: newest.job.ID, Name: "test", Repo: newest.job.Repo, Earlier: true}) {
		t.Errorf("the newest log is of %+v, %v", o, err)
	}
	for _, org := range orgs {
		for _, metadata := range []map[string]string{nil, {"model": ""}, {"model": "A"}, {"model": "a"}, {"seed": "1", "model": "A"}, {"seed": "2"}, {"nightly": ""}, {"model%": ""}} {
			for _, repo := range []string{"", "octo/hello", "acme/hello", "octo/none"} {
				for _, below := range []string{lastAttempt, all[len(all)/2].id} {
					for _, limit := range []int{100, 3} {
						wanted := logs.Jobs{Repo: repo, Metadata: metadata}
						var want []string
						for _, a := range all {
							if a.job.OrgID == org && a.id < below && wanted.Want(a.job.Job) && len(want) < limit {
								want = append(want, a.id)
							}
						}
						got, err := b.AttemptsOf(ctx, org, wanted, below, int32(limit))
						if diff := gocmp.Diff(want, got, cmpopts.EquateEmpty()); err != nil || diff != "" {
							t.Fatalf("%s %+v below %s: %v\n-want +got:\n%s", org, wanted, below, err, diff)
						}
					}
				}
			}
		}
	}
}

// lastAttempt sorts after all ids of attempts.
const lastAttempt = "atu"
