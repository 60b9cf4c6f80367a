// Command registry measures the registry with a load tool of its own, in turns
// with a floor that does in the same run what any registry has to do: hash, sync and
// rename what comes, and serve files.
package main

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nimbus-ci/nimbus/bench/process"
	"github.com/nimbus-ci/nimbus/bench/report"
)

const (
	mib     = 1 << 20
	clients = 8
	chunk   = 16 * mib
	pulls   = 10 // of each small blob: the kernel counts CPU in hundredths of a second
)

// size is how much is measured.
type size struct {
	rounds int
	large  int // MiB of the large blob
	small  int // blobs of 1 MiB
	gets   int // of a manifest
}

func main() {
	if kind := os.Getenv(kindVariable); kind != "" {
		fail(serve(kind, os.Getenv(dirVariable)))
	}
	if err := run(); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "bench-registry:", err)
	os.Exit(1)
}

func run() (err error) {
	n := size{rounds: 5, large: 1024, small: 200, gets: 40_000}
	if os.Getenv("QUICK") != "" {
		n = size{rounds: 3, large: 256, small: 100, gets: 10_000}
	}
	dir, err := os.MkdirTemp(os.Getenv("NIMBUS_BENCH_DIR"), "nimbus-bench-")
	if err != nil {
		return fmt.Errorf("make work folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	nimbus, err := start("nimbus", filepath.Join(dir, "nimbus"))
	if err != nil {
		return err
	}
	defer nimbus.stop()
	plain, err := start("floor", filepath.Join(dir, "floor"))
	if err != nil {
		return err
	}
	defer plain.stop()
	b := &bench{size: n, report: report.New("registry"), nimbus: &target{running: nimbus, contents: filepath.Join(dir, "nimbus", "registry", "registry", "*", "*")}, floor: &target{running: plain, isFloor: true, contents: filepath.Join(dir, "floor", "*")},
		took: map[string][2][]float64{}, cpu: map[string][2][]float64{}}
	for round := range n.rounds {
		fmt.Fprintf(os.Stderr, "bench-registry: round %d of %d\n", round+1, n.rounds)
		if err := b.round(round); err != nil {
			return err
		}
	}
	rss, err := process.PeakRSS(nimbus.cmd.Process.Pid)
	if err != nil {
		return err
	}
	return b.tell(float64(rss) / mib)
}

// target is a server that is measured.
type target struct {
	*running

	isFloor  bool
	contents string // a pattern of the files that are its contents
	bearer   string
}

// bench is what was measured: of each phase the floor's figures, then ours.
type bench struct {
	size

	report        *report.Report
	nimbus, floor *target
	took, cpu     map[string][2][]float64
	large         []byte
}

// phase is something that is done to a server, of so many bytes, or times.
type phase struct {
	name   string
	amount float64
	do     func(t *target) error
}

func (b *bench) round(n int) error {
	b.large = fresh(b.size.large * mib)
	small := make([][]byte, b.small)
	for i := range small {
		small[i] = fresh(mib)
	}
	chunked := fresh(b.size.large * mib)
	manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[],"annotations":{"a":%q}}`,
		digestOf([]byte("{}")), strings.Repeat(strconv.Itoa(n), 1800))
	large, about := digestOf(b.large), digestOf(manifest)
	names := make([]string, len(small))
	for i, s := range small {
		names[i] = digestOf(s)
	}
	phases := []phase{
		{"push large", float64(len(b.large)), func(t *target) error { return t.push(b.large) }},
		{"push small", float64(b.small * mib), func(t *target) error { return each(b.small, func(i int) error { return t.push(small[i]) }) }},
		{"push chunked", float64(len(chunked)), func(t *target) error { return t.pushChunked(chunked) }},
		{"pull large", float64(clients * len(b.large)), func(t *target) error {
			return each(clients, func(int) error { return t.pull(large, int64(len(b.large))) })
		}},
		{"pull small", float64(pulls * b.small * mib), func(t *target) error {
			return each(pulls*b.small, func(i int) error { return t.pull(names[i%b.small], mib) })
		}},
		{"manifests", float64(b.gets), func(t *target) error {
			return each(b.gets, func(int) error { return t.get(t.manifest(about), int64(len(manifest))) })
		}},
	}
	for _, t := range []*target{b.floor, b.nimbus} {
		if err := t.prepare(manifest); err != nil {
			return err
		}
	}
	for i, p := range phases {
		order := []*target{b.floor, b.nimbus}
		if (n+i)%2 == 1 {
			order[0], order[1] = order[1], order[0]
		}
		for _, t := range order {
			if err := b.measure(p, t); err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
		}
	}
	return errors.Join(b.nimbus.empty(), b.floor.empty())
}

// empty makes room on the disk: nothing of a round is read in the next.
func (t *target) empty() error {
	files, err := filepath.Glob(t.contents)
	for _, f := range files {
		err = errors.Join(err, os.Remove(f))
	}
	return err
}

// measure notes how much of a phase is done in a second, and the CPU of it.
func (b *bench) measure(p phase, t *target) error {
	before, err := process.CPU(t.cmd.Process.Pid)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := p.do(t); err != nil {
		return err
	}
	took := time.Since(began)
	after, err := process.CPU(t.cmd.Process.Pid)
	if err != nil {
		return err
	}
	who := 1
	if t.isFloor {
		who = 0
	}
	rates, costs := b.took[p.name], b.cpu[p.name]
	rates[who] = append(rates[who], p.amount/took.Seconds())
	costs[who] = append(costs[who], (after-before).Seconds()/p.amount)
	b.took[p.name], b.cpu[p.name] = rates, costs
	return nil
}

func fresh(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// each does something n times, by as many clients as there are.
func each(n int, do func(i int) error) error {
	var group errgroup.Group
	for c := range clients {
		group.Go(func() error {
			for i := c; i < n; i += clients {
				if err := do(i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

const repo = "/v2/default/bench"

// prepare has a target hold a manifest, and the load tool a token.
func (t *target) prepare(manifest []byte) error {
	if t.isFloor {
		return t.push(manifest)
	}
	request, err := http.NewRequest(http.MethodGet, t.url+"/v2/token?scope=repository:default/bench:pull,push,delete", nil)
	if err != nil {
		return err
	}
	request.SetBasicAuth("bench", t.token)
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	var given struct {
		Token string `json:"token"`
	}
	if err := json.NewDecoder(answer.Body).Decode(&given); err != nil {
		return err
	}
	t.bearer = given.Token
	if err := t.push([]byte("{}")); err != nil {
		return err
	}
	_, err = t.send(http.MethodPut, repo+"/manifests/bench", manifest, http.StatusCreated, "Content-Type", "application/vnd.oci.image.manifest.v1+json")
	return err
}

var client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients, WriteBufferSize: 128 << 10, ReadBufferSize: 128 << 10}}

func (t *target) send(method, path string, body []byte, want int, headers ...string) (location string, err error) {
	if strings.HasPrefix(path, "/") {
		path = t.url + path
	}
	request, err := http.NewRequest(method, path, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	if t.bearer != "" {
		request.Header.Set("Authorization", "Bearer "+t.bearer)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	answer, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != want {
		err = fmt.Errorf("%s %s: %s %.200s", method, path, answer.Status, said)
	}
	return answer.Header.Get("Location"), err
}

// push sends a blob as clients do that know its digest: POST, then PUT.
func (t *target) push(b []byte) error {
	to := "/" + digestOf(b)
	if !t.isFloor {
		var err error
		if to, err = t.send(http.MethodPost, repo+"/blobs/uploads/", nil, http.StatusAccepted); err != nil {
			return err
		}
	}
	_, err := t.send(http.MethodPut, to+"?digest="+url.QueryEscape(digestOf(b)), b, http.StatusCreated)
	return err
}

// pushChunked sends it in parts; the floor gets it at once.
func (t *target) pushChunked(b []byte) error {
	if t.isFloor {
		return t.push(b)
	}
	to, err := t.send(http.MethodPost, repo+"/blobs/uploads/", nil, http.StatusAccepted)
	for at := 0; err == nil && at < len(b); at += chunk {
		end := min(at+chunk, len(b))
		to, err = t.send(http.MethodPatch, to, b[at:end], http.StatusAccepted, "Content-Range", fmt.Sprintf("%d-%d", at, end-1))
	}
	if err != nil {
		return err
	}
	_, err = t.send(http.MethodPut, to+"?digest="+url.QueryEscape(digestOf(b)), nil, http.StatusCreated)
	return err
}

func (t *target) pull(digest string, size int64) error {
	if t.isFloor {
		return t.get("/"+digest, size)
	}
	return t.get(repo+"/blobs/"+digest, size)
}

func (t *target) manifest(digest string) string {
	if t.isFloor {
		return "/" + digest
	}
	return repo + "/manifests/" + digest
}

// get reads something, and looks at its length alone.
func (t *target) get(path string, size int64) error {
	request, err := http.NewRequest(http.MethodGet, t.url+path, nil)
	if err != nil {
		return err
	}
	if t.bearer != "" {
		request.Header.Set("Authorization", "Bearer "+t.bearer)
	}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	n, err := io.Copy(io.Discard, answer.Body)
	if err == nil && (answer.StatusCode != http.StatusOK || n != size) {
		err = fmt.Errorf("GET %s: %s, %d bytes of %d", path, answer.Status, n, size)
	}
	return err
}

// tell writes the figures.
func (b *bench) tell(rss float64) error {
	const what = "a server that hashes, syncs and serves files"
	for _, f := range []struct {
		phase, name string
		least       float64
	}{
		{"push large", "push_1g", 0.8}, {"push small", "push_small_8", 0.8}, {"push chunked", "push_chunked", 0.8},
		{"pull large", "pull_1g", 0.85}, {"pull small", "pull_small_8", 0.85}, {"manifests", "manifests_per_s", 0.5},
	} {
		unit, per := "MB/s", 1e6
		if f.phase == "manifests" {
			unit, per = "1/s", 1
		}
		took, cpu := b.took[f.phase], b.cpu[f.phase]
		b.report.AddPaired(f.name, unit, scaled(took[1], 1/per), scaled(took[0], 1/per), what, fmt.Sprintf("ratio>=%v", f.least),
			func(_, ratio float64) bool { return ratio >= f.least })
		if f.phase != "manifests" {
			b.report.AddPaired(f.name+"_cpu_s_per_gib", "s", scaled(cpu[1], 1<<30), scaled(cpu[0], 1<<30), what, "ratio<=1.25",
				func(_, ratio float64) bool { return ratio <= 1.25 })
		}
	}
	b.report.Add("rss_mb", "MB", []float64{rss * mib / 1e6}, nil, "", "value<=100", func(v, _ float64) bool { return v <= 100 })
	return b.report.Write(os.Stdout) //nolint:wrapcheck // it is told as it is
}

func scaled(all []float64, by float64) []float64 {
	out := make([]float64, len(all))
	for i, v := range all {
		out[i] = v * by
	}
	return out
}
