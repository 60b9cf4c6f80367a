package scheduler_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store/storetest"
)

// TestHistoryComesInPages that together are the whole, each of it once.
func TestHistoryComesInPages(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		ctx, org := t.Context(), nimbus.DefaultOrgID
		j := w.submit(nimbus.Spec{})
		for priority := range 7 {
			_, err := w.SetPriority(ctx, admin, org, j.ID, priority+1)
			w.must(err)
		}
		whole, next, err := w.EventPage(ctx, org, j.ID, 0, "")
		w.must(err)
		if len(whole) < 8 || next != "" {
			t.Fatalf("all in one page are %d events, and %q follows", len(whole), next)
		}
		for _, size := range []int{1, 3, len(whole) - 1, len(whole)} {
			var got []nimbus.JobEvent
			pages := 0
			for after := ""; pages == 0 || after != ""; pages++ {
				page, next, err := w.EventPage(ctx, org, j.ID, size, after)
				w.must(err)
				if len(page) == 0 || len(page) > size {
					t.Fatalf("a page of %d has %d events", size, len(page))
				}
				got, after = append(got, page...), next
			}
			if diff := cmp.Diff(whole, got); diff != "" || pages != (len(whole)+size-1)/size {
				t.Errorf("%d pages of %d (-want +got):\n%s", pages, size, diff)
			}
		}
		for _, token := range []string{"x", "-1", "0", "99999999999999999999"} {
			_, _, err := w.EventPage(ctx, org, j.ID, 3, token)
			w.want(nimbus.CodeInvalid, err)
		}
		_, _, err = w.EventPage(ctx, "org_00000000000000000000000001", j.ID, 3, "2")
		w.want(nimbus.CodeNotFound, err)
		if page, next, err := w.EventPage(ctx, org, j.ID, 3, "1000"); err != nil || len(page) != 0 || next != "" {
			t.Errorf("behind the end are %v, %q, %v", page, next, err)
		}
	})
}

func TestEveryReadKeepsToItsOrg(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		ctx := t.Context()
		j := w.submit(nimbus.Spec{})
		const other = "org_00000000000000000000000001"
		_, err := w.Job(ctx, other, j.ID)
		w.want(nimbus.CodeNotFound, err)
		_, err = w.Events(ctx, other, j.ID)
		w.want(nimbus.CodeNotFound, err)
		page, err := w.Jobs(ctx, other, scheduler.JobFilter{})
		w.must(err)
		if len(page.Jobs) != 0 {
			t.Errorf("another org sees %d jobs", len(page.Jobs))
		}
		_, err = w.Cancel(ctx, admin, other, j.ID)
		w.want(nimbus.CodeNotFound, err)
		_, err = w.Cancel(ctx, nimbus.Principal{Kind: nimbus.PrincipalAdmin, OrgID: other}, nimbus.DefaultOrgID, j.ID)
		w.want(nimbus.CodeNotFound, err)
		w.must(w.LogStored(ctx, nimbus.LogKey{OrgID: other, AttemptID: "att_x"}, 5))
		w.expect(j.ID, nimbus.StatePending)
		// A token of another org can't reach the first one's job by its key.
		_, err = w.Submit(ctx, nimbus.Principal{OrgID: "org_unknown"}, scheduler.Submission{Spec: nimbus.Spec{Command: []string{"true"}}})
		if err == nil {
			t.Error("a job of an org that does not exist was admitted")
		}
	})
}

func TestSubmitIsIdempotentByKey(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		sub := scheduler.Submission{Spec: nimbus.Spec{Command: []string{"true"}}, IdempotencyKey: "k"}
		ids := make(chan string, 8)
		for range cap(ids) {
			go func() {
				j, err := w.Submit(t.Context(), admin, sub)
				if err != nil {
					t.Error(err)
				}
				ids <- j.ID
			}()
		}
		first := <-ids
		for range cap(ids) - 1 {
			if id := <-ids; id != first {
				t.Errorf("one key made the jobs %s and %s", first, id)
			}
		}
		sub.IdempotencyKey = "other"
		if j, err := w.Submit(t.Context(), admin, sub); err != nil || j.ID == first {
			t.Errorf("another key: %s %v", j.ID, err)
		}
	})
}

func TestSubmitRefusesWhatIsWrong(t *testing.T) {
	t.Parallel()
	w := newWorld(t, storetest.SQLite(t), scheduler.Config{})
	ok := nimbus.Spec{Command: []string{"true"}}
	for name, try := range map[string]struct {
		code nimbus.Code
		sub  scheduler.Submission
	}{
		"no command":      {nimbus.CodeInvalid, scheduler.Submission{}},
		"huge command":    {nimbus.CodeTooLarge, scheduler.Submission{Spec: nimbus.Spec{Command: []string{strings.Repeat("x", nimbus.MaxCommandBytes)}}}},
		"bad variable":    {nimbus.CodeInvalid, scheduler.Submission{Spec: nimbus.Spec{Command: ok.Command, Env: map[string]string{"A=B": ""}}}},
		"NUL in argument": {nimbus.CodeInvalid, scheduler.Submission{Spec: nimbus.Spec{Command: []string{"echo", "a\x00b"}}}},
		"NUL in variable": {nimbus.CodeInvalid, scheduler.Submission{Spec: nimbus.Spec{Command: ok.Command, Env: map[string]string{"A": "a\x00b"}}}},
		"bad workspace":   {nimbus.CodeInvalid, scheduler.Submission{Spec: nimbus.Spec{Command: ok.Command, WorkspaceID: "../x"}}},
		"long timeout":    {nimbus.CodeInvalid, scheduler.Submission{Spec: nimbus.Spec{Command: ok.Command, Timeout: nimbus.MaxTimeout + 1}}},
		"bad executor":    {nimbus.CodeInvalid, scheduler.Submission{Spec: ok, Class: nimbus.Class{Executor: "vax"}}},
		"path as image":   {nimbus.CodeInvalid, scheduler.Submission{Spec: ok, Class: nimbus.Class{Image: "../../etc"}}},
		"many CPUs":       {nimbus.CodeInvalid, scheduler.Submission{Spec: ok, Class: nimbus.Class{CPUs: 1 << 20}}},
		"long key":        {nimbus.CodeTooLarge, scheduler.Submission{Spec: ok, IdempotencyKey: strings.Repeat("k", 129)}},
		"negative CPUs":   {nimbus.CodeInvalid, scheduler.Submission{Spec: ok, Class: nimbus.Class{CPUs: -1}}},
		"strange profile": {nimbus.CodeInvalid, scheduler.Submission{Spec: ok, Class: nimbus.Class{Network: "lan"}}},
	} {
		if _, err := w.Submit(t.Context(), admin, try.sub); nimbus.ErrorCode(err) != try.code {
			t.Errorf("%s: %v, want %s", name, err, try.code)
		}
	}
}

func TestPagesAreNewestFirstWithoutGaps(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		host := w.host()
		var want []string
		for range 7 {
			want = append([]string{w.submit(nimbus.Spec{}).ID}, want...)
			w.skip(time.Second) // ids of one millisecond have no order
		}
		l := w.start(host).Lease
		w.must(w.Finish(t.Context(), host, l, exited(0)))
		walk := func(f scheduler.JobFilter) (got []string) {
			for f.PageSize = 3; ; {
				page, err := w.Jobs(t.Context(), nimbus.DefaultOrgID, f)
				w.must(err)
				for _, j := range page.Jobs {
					got = append(got, j.ID)
				}
				if f.PageToken = page.NextPageToken; f.PageToken == "" {
					return got
				}
			}
		}
		if got := walk(scheduler.JobFilter{}); strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("got  %v\nwant %v", got, want)
		}
		if got := walk(scheduler.JobFilter{States: []nimbus.State{nimbus.StateQueued, nimbus.StateOffered}}); len(got) != 6 {
			t.Errorf("%d jobs wait, want 6", len(got))
		}
		if got := walk(scheduler.JobFilter{States: []nimbus.State{nimbus.StateFinished}}); len(got) != 1 || got[0] != want[6] {
			t.Errorf("finished: %v", got)
		}
		_, err := w.Jobs(t.Context(), nimbus.DefaultOrgID, scheduler.JobFilter{PageToken: "'; --"})
		w.want(nimbus.CodeInvalid, err)
	})
}

func TestSubmittedLabels(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		w.host()
		run := nimbus.Spec{Command: []string{"true"}}
		j, err := w.Submit(t.Context(), admin, scheduler.Submission{Spec: run, Class: nimbus.Class{CPUs: 2},
			Labels: []string{"cpu:4", "memory:2", "local", "param:Model=A"}, Metadata: map[string]string{"seed": "7"}})
		w.must(err)
		got := w.job(j.ID)
		want := nimbus.Class{Executor: nimbus.ExecutorLocal, Image: nimbus.DefaultImage, CPUs: 2, MemoryMiB: 2048, Network: nimbus.NetworkInternet}
		if got.Class != want || got.Metadata["model"] != "A" || got.Metadata["seed"] != "7" || len(got.Labels) != 4 {
			t.Errorf("got %+v", got)
		}
		for _, sub := range []scheduler.Submission{
			{Spec: run, Labels: []string{"windows"}},
			{Spec: run, Labels: []string{"cpu:2", "cpu:4"}},
			{Spec: run, Labels: []string{"gpu-count:2"}, Class: nimbus.Class{Executor: nimbus.ExecutorLocal}},
			{Spec: run, Metadata: map[string]string{"Key": "x"}},
			{Spec: run, Metadata: map[string]string{"key": "a\nb"}},
		} {
			_, err := w.Submit(t.Context(), admin, sub)
			w.want(nimbus.CodeInvalid, err)
		}
		_, err = w.Submit(t.Context(), admin, scheduler.Submission{Spec: run, Labels: make([]string, nimbus.MaxLabels+1)})
		w.want(nimbus.CodeTooLarge, err)
		_, err = w.Jobs(t.Context(), nimbus.DefaultOrgID, scheduler.JobFilter{Labels: make([]string, 17)})
		w.want(nimbus.CodeInvalid, err)
	})
}
