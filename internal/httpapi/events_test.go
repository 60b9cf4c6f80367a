package httpapi_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
)

// TestAHistoryIsReadInPages, and by who knows of none, whole.
func TestAHistoryIsReadInPages(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	job := p.submit(t)
	type page struct {
		Events []struct {
			Seq string `json:"seq"`
		} `json:"events"`
		NextPageToken string `json:"nextPageToken"`
	}
	read := func(more string) (out page) {
		t.Helper()
		got := p.asAdmin(t, http.MethodPost, "/nimbus.v1.JobService/ListJobEvents", fmt.Sprintf(`{"jobId":%q%s}`, job.ID, more))
		if got.status != http.StatusOK {
			t.Fatalf("%d %s", got.status, got.body)
		}
		must(t, json.Unmarshal([]byte(got.body), &out))
		return out
	}
	for _, priority := range []int{1, 2} {
		p.asAdmin(t, http.MethodPost, "/nimbus.v1.JobService/SetJobPriority", fmt.Sprintf(`{"jobId":%q,"priority":%d}`, job.ID, priority))
	}
	whole, first := read(""), read(`,"pageSize":1`)
	if len(whole.Events) < 3 || whole.NextPageToken != "" || len(first.Events) != 1 || first.NextPageToken == "" {
		t.Fatalf("whole %+v, first page %+v", whole, first)
	}
	if second := read(fmt.Sprintf(`,"pageSize":1,"pageToken":%q`, first.NextPageToken)); len(second.Events) != 1 || second.Events[0] != whole.Events[1] {
		t.Errorf("the second page is %+v of %+v", second, whole)
	}
	if got := p.asAdmin(t, http.MethodPost, "/nimbus.v1.JobService/ListJobEvents", fmt.Sprintf(`{"jobId":%q,"pageToken":"x"}`, job.ID)); got.status != http.StatusBadRequest {
		t.Errorf("by a token that is none: %d %s", got.status, got.body)
	}
}
