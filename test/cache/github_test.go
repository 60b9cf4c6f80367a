package cache_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/nimbus-ci/nimbus"
	people "github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/cache/intercept"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/imagetest"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest"
	agents "github.com/nimbus-ci/nimbus/internal/host"
	"github.com/nimbus-ci/nimbus/internal/server"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// Ports of the gateway: the double of GitHub, and what jobs fetch their clients from.
const (
	githubPort  = 9100
	clientsPort = 9101
)

// results is what GitHub's results service is called.
func results() string { return intercept.Names()[0] }

// githubs is Nimbus as GitHub's jobs have it: a server, a host with microVMs, the
// double of GitHub, and one of its results service, which the host reaches.
type githubs struct {
	t      *testing.T
	github *githubtest.Server
	admin  *people.Client
	globex *people.Client // in another org
	log    *slog.Logger

	mu    sync.Mutex
	asked []string // of GitHub's results service
}

func startGitHubs(t *testing.T) *githubs {
	t.Helper()
	testenv.Require(t, "root", "qemu", "nft", "mke2fs", "node", "tar", "zstd")
	images := imagetest.Runner(t).Dir
	bin := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin+"/", "../../cmd/nimbus-shim", "../../cmd/nimbus-guest", "../../cmd/nimbus-runner")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the programs: %v\n%s", err, out)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	g := &githubs{t: t, log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))}
	var err error
	g.github, err = githubtest.Start(githubtest.Config{
		RunnerURL: fmt.Sprintf("http://gateway.nimbus.internal:%d", githubPort), ResultsURL: "https://" + results() + "/",
	})
	g.must(err)
	t.Cleanup(g.github.Close)
	address, roots := g.startResults()
	files := g.serveClients()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	g.must(err)
	ready, ended := make(chan struct{}), make(chan error, 1)
	ctx, stop := context.WithCancel(context.Background())
	e := server.Embedded{
		Config: server.Config{Data: t.TempDir(), Listener: l, Log: g.log, GitHub: &server.GitHub{
			AppID: g.github.AppID(), PrivateKey: g.github.PrivateKey(), WebhookSecrets: [][]byte{g.github.WebhookSecret()}, URL: g.github.URL(),
		}},
		OnReady: func(_ context.Context, s *server.Server) (err error) {
			if g.admin, err = people.New(people.Config{Server: "http://" + l.Addr().String(), Token: s.AdminToken()}); err != nil {
				return err
			}
			org, err := g.admin.CreateOrg(ctx, "globex", []string{"globex"})
			if err != nil {
				return err
			}
			g.globex, err = people.New(people.Config{Server: "http://" + l.Addr().String(), Token: s.AdminToken(), Org: org.ID})
			return err
		},
		Agent: &agents.Config{
			Executors: []string{nimbus.ExecutorMicroVM}, Images: images, CPUs: 4, MemoryMiB: 8192, Name: "test",
			Relays: []netslot.Relay{
				{Port: githubPort, Target: strings.TrimPrefix(g.github.URL(), "http://")}, {Port: clientsPort, Target: files},
			},
			GitHub: intercept.Forward{Roots: roots, Dial: func(ctx context.Context, network, asked string) (net.Conn, error) {
				if asked != results()+":443" {
					t.Errorf("a job has the host dial %s", asked)
				}
				return new(net.Dialer).DialContext(ctx, network, address)
			}},
		},
	}
	go func() { ended <- e.Run(ctx, func() { close(ready) }) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	select {
	case <-ready:
	case err := <-ended:
		ended <- nil
		t.Fatal(err)
	}
	g.github.SetWebhook("http://" + l.Addr().String() + "/webhooks/github")
	return g
}

func (g *githubs) must(err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
}

// startResults starts the double of the service: it says what it was asked.
func (g *githubs) startResults() (address string, roots *x509.CertPool) {
	g.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	g.must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: results()}, DNSNames: []string{results()},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	g.must(err)
	cert, err := x509.ParseCertificate(raw)
	g.must(err)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		g.mu.Lock()
		g.asked = append(g.asked, r.Method+" "+r.RequestURI+" "+r.Header.Get("Authorization"))
		g.mu.Unlock()
		fmt.Fprintf(w, "GitHub has %s of %d bytes", r.URL.Path, len(body))
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{raw}, PrivateKey: key}}}
	s.StartTLS()
	g.t.Cleanup(s.Close)
	roots = x509.NewCertPool()
	roots.AddCert(cert)
	return s.Listener.Addr().String(), roots
}

// atGitHub is what its results service was asked since.
func (g *githubs) atGitHub() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := g.asked
	g.asked = nil
	return out
}

// serveClients has jobs fetch Node with @actions/cache, and the client in Go.
func (g *githubs) serveClients() (address string) {
	g.t.Helper()
	dir := g.t.TempDir()
	node, err := exec.LookPath("node")
	g.must(err)
	node, err = filepath.EvalSymlinks(node)
	g.must(err)
	g.must(os.CopyFS(filepath.Join(dir, "node_modules"), os.DirFS("clients/node_modules")))
	for from, to := range map[string]string{node: "node", "clients/drive.mjs": "drive.mjs", "clients/package.json": "package.json", buildGoClient(g.t): "goclient"} {
		content, err := os.ReadFile(from)
		g.must(err)
		g.must(os.WriteFile(filepath.Join(dir, to), content, 0o755))
	}
	out, err := exec.CommandContext(g.t.Context(), "ldd", node).Output()
	g.must(err)
	g.must(os.Mkdir(filepath.Join(dir, "lib"), 0o755))
	for _, word := range strings.Fields(string(out)) {
		if base := filepath.Base(word); strings.HasPrefix(word, "/") && (strings.HasPrefix(base, "libstdc++") || strings.HasPrefix(base, "libgcc_s")) {
			content, err := os.ReadFile(word)
			g.must(err)
			g.must(os.WriteFile(filepath.Join(dir, "lib", base), content, 0o755))
		}
	}
	var packed bytes.Buffer
	w := tar.NewWriter(&packed)
	g.must(w.AddFS(os.DirFS(dir)))
	g.must(w.Close())
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { rw.Write(packed.Bytes()) }))
	g.t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// prelude is what scripts of jobs begin with.
var prelude = strings.NewReplacer("RESULTS", results(), "PORT", fmt.Sprint(clientsPort)).Replace(`
set -eu
cd /tmp
service=https://RESULTS/twirp/github.actions.results.api.v1.CacheService
fetch() {
	mkdir -p clients && curl -sSf http://gateway.nimbus.internal:PORT/ | tar x -C clients
	export LD_LIBRARY_PATH=/tmp/clients/lib GITHUB_WORKSPACE=/tmp
}
post() { curl -sS --max-time 100 -H "Authorization: Bearer $ACTIONS_RUNTIME_TOKEN" -H 'Content-Type: application/json' "$@"; }
url() { sed -n "s/.*\"signed_$1_url\":\"\([^\"]*\)\".*/\1/p" | sed 's/\\u0026/\&/g'; }
save() {
	upload=$(post -d "{\"key\":\"$1\",\"version\":\"v\"}" $service/CreateCacheEntry | url upload)
	case $upload in http://gateway.nimbus.internal:9180/_cache/*) ;; *) echo "saved elsewhere: $upload"; return;; esac
	curl -sSf -X PUT -H 'x-ms-blob-type: BlockBlob' --data-binary "$2" "$upload"
	post -d "{\"key\":\"$1\",\"version\":\"v\",\"size_bytes\":\"${#2}\"}" $service/FinalizeCacheEntryUpload > /dev/null
	echo "saved $1"
}
restore() {
	download=$(post -d "{\"key\":\"$1\",\"version\":\"v\"}" $service/GetCacheEntryDownloadURL | url download)
	if [ -n "$download" ]; then echo "restored $1: $(curl -sSf "$download")"; else echo "nothing of $1"; fi
}
`)

// run has a workflow's job run a script in a microVM, and returns it with its log.
func (g *githubs) run(repo, network, script string, from githubtest.Origin) (nimbus.Job, string) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), 12*time.Minute)
	defer cancel()
	text := strings.ReplaceAll(strings.TrimSpace(prelude+script), "\n", "\n          ")
	ids, err := g.github.PushAs(ctx, repo, fstest.MapFS{".github/workflows/ci.yml": &fstest.MapFile{Data: []byte(`
on: push
jobs:
  work:
    runs-on: [nimbus, "network:` + network + `"]
    steps:
      - name: Work
        run: |
          ` + text + "\n")}}, from)
	g.must(err)
	run, err := g.github.WaitRun(ctx, ids[0])
	g.must(err)
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		for _, org := range g.orgs() {
			page, err := org.Jobs(ctx, people.JobFilter{})
			g.must(err)
			for _, j := range page.Jobs {
				if j.GitHub.RunID == ids[0] && j.State == nimbus.StateFinished && j.LogComplete {
					return j, g.logOf(org, j.ID, run)
				}
			}
		}
	}
	g.t.Fatalf("the job of run %d has no end: %+v", ids[0], run)
	return nimbus.Job{}, ""
}

// orgs are clients in each of them.
func (g *githubs) orgs() []*people.Client {
	return []*people.Client{g.admin, g.globex}
}

func (g *githubs) logOf(org *people.Client, jobID string, run githubtest.Run) string {
	g.t.Helper()
	var b strings.Builder
	for line, err := range org.Log(g.t.Context(), jobID, 1) {
		g.must(err)
		fmt.Fprintln(&b, line.Text)
	}
	if run.Conclusion != "success" {
		g.t.Errorf("the run ended with %s:\n%s", run.Conclusion, b.String())
	}
	return b.String()
}

// TestJobsOfGitHub saves with the real clients in one microVM and restores in others,
// with nothing set but what GitHub's runner sets.
func TestJobsOfGitHub(t *testing.T) {
	g := startGitHubs(t)
	_, log := g.run("acme/hello", "internet", `
fetch
mkdir w && cd w
head -c 3000000 /dev/urandom > content
echo "hash $(sha256sum < content)"
../clients/node ../clients/drive.mjs save of-node content
../clients/goclient save of-go content
save of-curl curls
restore of-curl
echo "artifact: $(post -d '{"name":"a"}' https://`+results()+`/twirp/github.actions.results.api.v1.ArtifactService/CreateArtifact)"
env | grep ^ACTIONS_RUNTIME_TOKEN= > /dev/null
`, githubtest.Origin{})
	g.says(log, "saved of-curl", "restored of-curl: curls", "artifact: GitHub has /twirp/github.actions.results.api.v1.ArtifactService/CreateArtifact of 12 bytes")
	if asked := g.atGitHub(); len(asked) != 1 || !strings.HasPrefix(asked[0], "POST /twirp/github.actions.results.api.v1.ArtifactService/CreateArtifact Bearer ") {
		t.Errorf("GitHub was asked %q", asked)
	}
	_, hash, _ := strings.Cut(log, "hash ")
	hash, _, _ = strings.Cut(hash, "\n")
	// A fork's branch is called main, too.
	_, log = g.run("acme/hello", "internet", `
restore of-curl
save of-fork poison
restore of-fork
`, githubtest.Origin{Event: "pull_request", Fork: "mallory/hello", Pull: 8})
	g.says(log, "restored of-curl: curls", "saved of-fork", "restored of-fork: poison")

	_, log = g.run("acme/hello", "none", `
fetch
mkdir w && cd w
../clients/node ../clients/drive.mjs restore content of-node
echo "node $(sha256sum < content)"
../clients/goclient load content of-go
echo "go $(sha256sum < content)"
restore of-curl
restore of-fork
post -o /dev/null -w 'artifact: %{http_code}\n' -d '{"name":"a"}' https://`+results()+`/twirp/github.actions.results.api.v1.ArtifactService/CreateArtifact
`, githubtest.Origin{})
	g.says(log, "node "+hash, "go "+hash, "restored of-curl: curls", "nothing of of-fork", "artifact: 403")
	if asked := g.atGitHub(); len(asked) != 0 {
		t.Errorf("out of network:none GitHub was asked %q", asked)
	}

	// Another org's job, at the same time on the same host as far as the door can tell.
	_, log = g.run("globex/hello", "internet", `
restore of-curl
curl -s --max-time 20 --resolve github.com:443:172.16.0.1 -k https://github.com/ || echo "another name: refused"
curl -s --max-time 20 http://172.16.0.1:443/ || echo "no TLS: refused"
post -o /dev/null -w 'another host: %{http_code}\n' -H 'Host: github.com' -d '{}' $service/GetCacheEntryDownloadURL
echo "a path: $(post --path-as-is -d '{}' https://`+results()+`/x/../twirp/github.actions.results.api.v1.CacheService/CreateCacheEntry)"
`, githubtest.Origin{})
	g.says(log, "nothing of of-curl", "another name: refused", "no TLS: refused", "another host: 421",
		"a path: GitHub has /x/../twirp/github.actions.results.api.v1.CacheService/CreateCacheEntry")
}

// says tells that a log has all that it should.
func (g *githubs) says(log string, want ...string) {
	g.t.Helper()
	g.t.Log(log)
	for _, w := range want {
		if !strings.Contains(log, w) {
			g.t.Errorf("the log has no %q", w)
		}
	}
}
