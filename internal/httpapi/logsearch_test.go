package httpapi_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
)

type foundAnswer struct {
	Lines []struct {
		JobID string `json:"jobId"`
		Seq   string `json:"seq"`
		Text  string `json:"text"`
		Level string `json:"level"`
	} `json:"lines"`
	NextPageToken string `json:"nextPageToken"`
}

func (p *plane) search(t *testing.T, body string) (a foundAnswer, status int) {
	t.Helper()
	got := p.asAdmin(t, http.MethodPost, "/nimbus.v1.LogService/SearchLogs", body)
	if got.status == http.StatusOK {
		must(t, json.Unmarshal([]byte(got.body), &a))
	}
	return a, got.status
}

// TestSearchLogs pages through what it finds, and refuses what can't be asked.
func TestSearchLogs(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	h, j := p.join(t), p.submit(t)
	lease := h.accept(t)
	h.write(t, lease, 1, 30)
	var seqs []string
	for token := ""; ; {
		a, status := p.search(t, fmt.Sprintf(`{"jobId":%q,"pageSize":7,"pageToken":%q}`, j.ID, token))
		if status != http.StatusOK {
			t.Fatal(status)
		}
		for _, l := range a.Lines {
			if l.JobID != j.ID {
				t.Errorf("a line of job %q", l.JobID)
			}
			seqs = append(seqs, l.Seq)
		}
		if token = a.NextPageToken; token == "" {
			break
		}
	}
	if len(seqs) != 30 || seqs[0] != "1" || seqs[29] != "30" {
		t.Errorf("found %v", seqs)
	}
	if a, _ := p.search(t, `{"repo":"nobody/nothing"}`); len(a.Lines) != 0 {
		t.Errorf("a repository without jobs has %d lines", len(a.Lines))
	}
	for body, want := range map[string]int{
		`{"text":"(","pattern":true}`:                                 http.StatusBadRequest,
		`{"text":"((a{1,20}){1,20}){1,20}","pattern":true}`:           http.StatusBadRequest,
		`{"level":"loud"}`:                                            http.StatusBadRequest,
		`{"streams":["stdlog"]}`:                                      http.StatusBadRequest,
		`{"pageSize":1001}`:                                           http.StatusBadRequest,
		`{"pageToken":"'; DROP TABLE"}`:                               http.StatusBadRequest,
		`{"repo":"x","pageToken":"'; DROP TABLE"}`:                    http.StatusBadRequest,
		`{"text":"` + strings.Repeat("x", 1001) + `"}`:                http.StatusBadRequest,
		`{"jobId":"job_00000000000000000000000000"}`:                  http.StatusNotFound,
		`{"repo":"' OR '1'='1","text":"' OR '1'='1"}`:                 http.StatusOK,
		`{"jobId":"` + j.ID + `","text":"^.* [0-9]$","pattern":true}`: http.StatusOK,
	} {
		if _, status := p.search(t, body); status != want {
			t.Errorf("%.60s: %d, want %d", body, status, want)
		}
	}
	got := p.asAdmin(t, http.MethodPost, "/nimbus.v1.LogService/GetLogStats", fmt.Sprintf(`{"jobId":%q}`, j.ID))
	if got.status != http.StatusOK || !strings.Contains(got.body, `"lines":"30"`) {
		t.Errorf("%d %s", got.status, got.body)
	}
	if got := p.asAdmin(t, http.MethodGet, "/api/v1/jobs/"+j.ID+"/log?tail=4", ""); strings.Count(got.body, "\n") != 4 || !strings.Contains(got.body, `"seq":27`) {
		t.Errorf("the last four lines: %d %s", got.status, got.body)
	}
}

// TestLogRetention: an org's own counts, then that of all.
func TestLogRetention(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	for _, c := range []struct{ call, body, want string }{
		{"SetDefaultLogRetention", `{"days":90}`, `{"days":90,"isDefault":true}`},
		{"SetLogRetention", `{"days":7}`, `{"days":7}`},
		{"SetLogRetention", `{"useDefault":true}`, `{"days":90,"isDefault":true}`},
		{"SetLogRetention", `{"days":0}`, `{}`},
	} {
		if got := p.asAdmin(t, http.MethodPost, "/nimbus.v1.LogService/"+c.call, c.body); got.status != http.StatusOK {
			t.Fatalf("%s: %d %s", c.call, got.status, got.body)
		}
		got := p.asAdmin(t, http.MethodPost, "/nimbus.v1.LogService/GetLogRetention", `{}`)
		if strings.ReplaceAll(got.body, " ", "") != c.want {
			t.Errorf("after %s %s: %s", c.call, c.body, got.body)
		}
	}
	if got := p.asAdmin(t, http.MethodPost, "/nimbus.v1.LogService/SetLogRetention", `{"days":36501}`); got.status != http.StatusBadRequest {
		t.Errorf("a hundred years and a day: %d", got.status)
	}
}

// TestManyLogsOneStream follows three jobs over one connection, cut again and again; each
// goes on with the line after the one that the last event's id names, each line comes once
// on a connection, and "end" comes last.
func TestManyLogsOneStream(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	h := p.join(t)
	var ids []string
	for range 3 {
		j := p.submit(t)
		ids = append(ids, j.ID)
		lease := h.accept(t)
		h.write(t, lease, 1, 40)
		h.finish(t, lease, 40)
	}
	path := "/api/v1/logs/stream?jobs=" + strings.Join(ids, ",")
	seen, last := map[string]int{}, ""
	for range 100 {
		more, id, ended := p.followMany(t, path, last, 25)
		places := strings.Split(last, ",")
		for i, job := range ids {
			next := 1
			if last != "" {
				_, seq, _ := strings.Cut(places[i], ":")
				n, err := strconv.Atoi(seq)
				must(t, err)
				next = n + 1
			}
			for _, line := range more {
				of, seq, _ := strings.Cut(line, " ")
				if of != job {
					continue
				}
				if seq != strconv.Itoa(next) {
					t.Fatalf("line %s of %s came instead of line %d, on a connection that goes on after %q", seq, job, next, last)
				}
				next++
			}
		}
		for _, line := range more {
			seen[line]++
		}
		if last = id; ended {
			break
		}
	}
	for _, id := range ids {
		for seq := 1; seq <= 40; seq++ {
			if seen[fmt.Sprintf("%s %d", id, seq)] == 0 {
				t.Errorf("line %d of %s did not come", seq, id)
			}
		}
	}
	if len(seen) != 120 {
		t.Errorf("%d lines", len(seen))
	}
	tail, _, ended := p.followMany(t, path+"&tail=2", "", 1000)
	if len(tail) != 6 || !ended {
		t.Errorf("the last lines: %v, %v", tail, ended)
	}
	if got := p.asAdmin(t, http.MethodGet, "/api/v1/logs/stream?jobs="+strings.Repeat("x,", 50)+"x", ""); got.status != http.StatusBadRequest {
		t.Errorf("51 jobs: %d", got.status)
	}
	if got := p.asAdmin(t, http.MethodGet, "/api/v1/logs/stream", ""); got.status == http.StatusOK {
		t.Errorf("no jobs: %d", got.status)
	}
}

// TestExportAndImport: what was exported and then lost comes back once the attempt has
// ended, and not before; what is there stays.
func TestExportAndImport(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	h, j := p.join(t), p.submit(t)
	lease := h.accept(t)
	h.write(t, lease, 1, 30)
	archive := p.asAdmin(t, http.MethodGet, "/api/v1/logs/export", "")
	if archive.status != http.StatusOK {
		t.Fatalf("%d %s", archive.status, archive.body)
	}
	bring := func() answer { return p.asAdmin(t, http.MethodPost, "/api/v1/logs/import", archive.body) }
	if got := bring(); got.status != http.StatusOK || !strings.Contains(got.body, `"skipped":1`) {
		t.Errorf("what is there: %d %s", got.status, got.body)
	}
	key := nimbus.LogKey{OrgID: nimbus.DefaultOrgID, AttemptID: lease.GetAttemptId()}
	must(t, p.logs.Delete(t.Context(), key))
	if got := bring(); got.status != http.StatusConflict {
		t.Errorf("while a host writes it: %d %s", got.status, got.body)
	}
	h.finish(t, lease, 30)
	if got := bring(); got.status != http.StatusOK || !strings.Contains(got.body, `"lines":30`) {
		t.Errorf("what was lost: %d %s", got.status, got.body)
	}
	if a, _ := p.search(t, fmt.Sprintf(`{"jobId":%q}`, j.ID)); len(a.Lines) != 30 {
		t.Errorf("%d lines are back", len(a.Lines))
	}
	p.submit(t)
	late := h.accept(t)
	h.write(t, late, 1, 20)
	archive = p.asAdmin(t, http.MethodGet, "/api/v1/logs/export", "")
	h.finish(t, late, 40) // its host has 20 more
	must(t, p.logs.Delete(t.Context(), nimbus.LogKey{OrgID: nimbus.DefaultOrgID, AttemptID: late.GetAttemptId()}))
	if got := bring(); got.status != http.StatusConflict || !strings.Contains(got.body, "its host may still have lines") {
		t.Errorf("while a host has more of it: %d %s", got.status, got.body)
	}
	if got := p.asAdmin(t, http.MethodPost, "/api/v1/logs/import", "nonsense"); got.status != http.StatusBadRequest {
		t.Errorf("nonsense: %d %s", got.status, got.body)
	}
}
