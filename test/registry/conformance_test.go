package registry_test

import (
	"encoding/xml"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/registry"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// mayBeSkipped are the cases of the suite that it skips itself, and why. Any other
// one that it skips, or finds not to be supported, fails the test.
var mayBeSkipped = map[string]string{
	"blob-mount":           "the suite asks for a token of one repository alone, by which nothing is mounted from another: it is answered by 202, and the suite pushes. Mounts are tried by TestMount and by real clients",
	"blob-mount-anonymous": "what a repository has is nobody's business who does not name it: it is answered by 202",
	"blob-post-cancel":     "is no part of version 1.1; version dev has it",
}

// TestConformance runs the suite of OCI's distribution specification, with a token
// as a client has one. It ends with success whatever it finds: what counts is in
// its report.
func TestConformance(t *testing.T) {
	t.Parallel()
	testenv.Require(t, "conformance")
	// Two are what Nimbus is run as, whole. The others are the registry alone.
	alone := func(engine string, blobs func(*testing.T) registry.Blobs) func(*testing.T) tried {
		return func(t *testing.T) tried {
			w := newWorld(t, engines[engine](t), blobs(t), registry.Limits{})
			return tried{strings.TrimPrefix(w.replicas[0].url, "http://"), "acme", w.token(w.org("acme"), nimbus.RoleOperator)}
		}
	}
	whole := func(open func(testing.TB, registry.Limits) *control) func(*testing.T) tried {
		return func(t *testing.T) tried {
			c := open(t, registry.Limits{})
			return tried{c.address, nimbus.DefaultOrg, c.token}
		}
	}
	for name, open := range map[string]func(*testing.T) tried{
		"fs and SQLite":     whole(embedded),
		"S3 and PostgreSQL": whole(replica),
		"fs and PostgreSQL": alone("postgres", func(t *testing.T) registry.Blobs { return folder(t, t.TempDir()) }),
		"S3 and SQLite":     alone("sqlite", func(t *testing.T) registry.Blobs { return inBucket(t, bucket(t)) }),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, version := range []string{"1.1", "dev"} {
				t.Run(version, func(t *testing.T) { conforms(t, open(t), version) })
			}
		})
	}
}

// tried is a registry that the suite is let loose on.
type tried struct{ address, org, token string }

// suiteFor is longer than the suite takes on a machine that is busy.
const suiteFor = 5 * time.Minute

func conforms(t *testing.T, c tried, version string) {
	t.Helper()
	program, err := testenv.Tool("conformance")
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Dir = out
	cmd.Env = append(os.Environ(), "OCI_REGISTRY="+c.address, "OCI_TLS=disabled", "OCI_REPO1="+c.org+"/conformance/one", "OCI_REPO2="+c.org+"/conformance/two",
		"OCI_VERSION="+version, "OCI_RESULTS_DIR="+out, "OCI_USERNAME=anybody", "OCI_PASSWORD="+c.token)
	cmd.WaitDelay = suiteFor
	said, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	judge(t, filepath.Join(out, "junit.xml"), said)
}

// report is the part of JUnit's form that counts.
type report struct {
	Tests    int `xml:"tests,attr"`
	Failures int `xml:"failures,attr"`
	Errors   int `xml:"errors,attr"`
	Suites   []struct {
		Cases []struct {
			Name    string `xml:"name,attr"`
			Class   string `xml:"classname,attr"`
			Status  string `xml:"status,attr"`
			Failure *struct {
				Text string `xml:",chardata"`
			} `xml:"failure"`
			Error *struct {
				Text string `xml:",chardata"`
			} `xml:"error"`
			Out string `xml:"system-out"`
		} `xml:"testcase"`
	} `xml:"testsuite"`
}

func judge(t *testing.T, path string, said []byte) {
	t.Helper()
	raw, err := os.ReadFile(path)
	var r report
	if err := errors.Join(err, xml.Unmarshal(raw, &r)); err != nil {
		t.Fatalf("the suite has left no report: %v\n%s", err, said)
	}
	skipped := 0
	for _, suite := range r.Suites {
		for _, c := range suite.Cases {
			switch {
			case c.Failure != nil:
				t.Errorf("%s %s fails:\n%.3000s", c.Class, c.Name, c.Failure.Text)
			case c.Error != nil:
				t.Errorf("%s %s is an error:\n%.3000s", c.Class, c.Name, c.Error.Text)
			case c.Status != "passed":
				skipped++
				if !explained(c.Name) {
					t.Errorf("%s %s is skipped, and nobody has said why:\n%.2000s", c.Class, c.Name, c.Out)
				}
			}
		}
	}
	if r.Tests < 500 || r.Failures > 0 || r.Errors > 0 {
		t.Errorf("of %d tests %d failed, and %d were errors\n%.4000s", r.Tests, r.Failures, r.Errors, said)
	}
	t.Logf("%d tests, %d failures, %d errors, %d skipped", r.Tests, r.Failures, r.Errors, skipped)
}

func explained(name string) bool {
	_, ok := mayBeSkipped[name[strings.LastIndexByte(name, '/')+1:]]
	return ok
}
