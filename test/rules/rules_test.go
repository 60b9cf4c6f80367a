// Package rules holds the dashboards and the alerts of deploy/ against the metrics
// that there are: each query parses, and names nothing that no server has.
package rules

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/prometheus/prometheus/promql/parser"
)

const root = "../.."

// known reads the page of metrics, which a test of internal/server holds to be true:
// the labels of each, by its name. Only a histogram has buckets, a count and a sum.
func known(t *testing.T) map[string][]string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(root, "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(nimbus_[a-z_]+)` \\| ([a-z, ]*) \\| (.*) \\|$").FindAllStringSubmatch(string(page), -1) {
		labels := []string{"job", "instance"}
		for label := range strings.SplitSeq(m[2], ",") {
			labels = append(labels, strings.TrimSpace(label))
		}
		all[m[1]] = labels
		if strings.HasSuffix(m[3], " A histogram.") {
			all[m[1]+"_bucket"] = append(slices.Clone(labels), "le")
			all[m[1]+"_count"], all[m[1]+"_sum"] = labels, labels
			delete(all, m[1])
		}
	}
	if len(all) < 40 {
		t.Fatalf("the page has %d metrics", len(all))
	}
	return all
}

// check parses a query and holds what it names against what there is.
func check(metrics map[string][]string, query string) error {
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	if err != nil {
		return fmt.Errorf("%s: %w", query, err)
	}
	var wrong []string
	labels := map[string]bool{}
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		if v, ok := n.(*parser.VectorSelector); ok {
			has, is := metrics[v.Name]
			if !is && v.Name != "up" && !strings.HasPrefix(v.Name, "process_") && !strings.HasPrefix(v.Name, "go_") {
				wrong = append(wrong, "there is no metric "+v.Name)
			}
			for _, label := range has {
				labels[label] = true
			}
			for _, m := range v.LabelMatchers {
				if m.Name != "__name__" && is && !slices.Contains(has, m.Name) {
					wrong = append(wrong, v.Name+" has no label "+m.Name)
				}
			}
		}
		return nil
	})
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		if a, ok := n.(*parser.AggregateExpr); ok {
			for _, label := range a.Grouping {
				if !labels[label] {
					wrong = append(wrong, "nothing in it has a label "+label)
				}
			}
		}
		return nil
	})
	if len(wrong) > 0 {
		return fmt.Errorf("%s: %s", query, strings.Join(wrong, "; "))
	}
	return nil
}

// TestAlerts: each alert can fire on what a server tells, and says what to do.
func TestAlerts(t *testing.T) {
	metrics := known(t)
	files, err := filepath.Glob(filepath.Join(root, "deploy", "prometheus", "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var rules struct {
			Groups []struct {
				Name  string `yaml:"name"`
				Rules []struct {
					Alert       string            `yaml:"alert"`
					Expr        string            `yaml:"expr"`
					For         string            `yaml:"for"`
					Labels      map[string]string `yaml:"labels"`
					Annotations map[string]string `yaml:"annotations"`
				} `yaml:"rules"`
			} `yaml:"groups"`
		}
		if err := yaml.UnmarshalWithOptions(raw, &rules, yaml.Strict()); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		names := map[string]bool{}
		for _, g := range rules.Groups {
			for _, r := range g.Rules {
				if r.Alert == "" || names[r.Alert] || r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
					t.Errorf("%s: the alert %q is not whole", file, r.Alert)
				}
				names[r.Alert] = true
				if err := check(metrics, r.Expr); err != nil {
					t.Errorf("%s: %s: %v", file, r.Alert, err)
				}
			}
		}
		if len(names) == 0 {
			t.Errorf("%s has no alerts", file)
		}
	}
}

// TestDashboards: each panel of each dashboard asks for what there is.
func TestDashboards(t *testing.T) {
	metrics := known(t)
	files, err := filepath.Glob(filepath.Join(root, "deploy", "grafana", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	uids := map[string]bool{}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var board struct {
			UID    string `json:"uid"`
			Title  string `json:"title"`
			Panels []struct {
				ID      int    `json:"id"`
				Title   string `json:"title"`
				Targets []struct {
					Expr string `json:"expr"`
				} `json:"targets"`
			} `json:"panels"`
		}
		if err := json.Unmarshal(raw, &board); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if board.UID == "" || board.Title == "" || uids[board.UID] || len(board.Panels) == 0 {
			t.Errorf("%s: the dashboard %q is not whole", file, board.UID)
		}
		uids[board.UID] = true
		ids := map[int]bool{}
		for _, p := range board.Panels {
			if ids[p.ID] || p.Title == "" || len(p.Targets) == 0 {
				t.Errorf("%s: panel %d %q is not whole", file, p.ID, p.Title)
			}
			ids[p.ID] = true
			for _, target := range p.Targets {
				query := strings.ReplaceAll(target.Expr, "$__rate_interval", "5m")
				if err := check(metrics, query); err != nil {
					t.Errorf("%s: %s: %v", file, p.Title, err)
				}
			}
		}
	}
}

// TestCheck: what is wrong is found.
func TestCheck(t *testing.T) {
	metrics := known(t)
	for query, says := range map[string]string{
		`sum(nimbus_no_such_thing)`:                                 "no metric",
		`sum by (colour) (nimbus_queue_jobs)`:                       "a label colour",
		`nimbus_queue_jobs{org="x"}`:                                "no label org",
		`rate(nimbus_queue_jobs`:                                    "parse error",
		`sum by (class) (nimbus_queue_jobs) > 0`:                    "",
		`histogram_quantile(0.9, nimbus_claim_wait_seconds_bucket)`: "",
		`nimbus_claim_wait_seconds_count{stage="queued"}`:           "",
		`nimbus_claim_wait_seconds_count{le="1"}`:                   "no label le",
		`nimbus_claim_wait_seconds`:                                 "no metric",
		`nimbus_queue_jobs_bucket`:                                  "no metric",
		`nimbus_queue_jobs_count`:                                   "no metric",
	} {
		err := check(metrics, query)
		if (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", query, err)
		}
	}
	if names := slices.Sorted(maps.Keys(metrics)); !slices.Contains(names, "nimbus_telemetry_batches_total") {
		t.Error("the page lacks the telemetry of jobs")
	}
}
