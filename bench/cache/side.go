package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/bench/replica"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/testenv"
	"github.com/nimbus-ci/nimbus/test/simhost"
)

// side is one of the two that are compared. What it keeps under a key that begins
// with kept stays.
type side struct {
	name  string
	url   string
	token string // of a job; the floor asks for none
	pids  []int  // whose CPU time counts
	http  *http.Client
	tidy  func() error // removes what was uploaded in a round

	adminToken string // a file, of the product alone
	stop       func()
}

const (
	kept    = "kept"
	version = "v"
)

func newSide(name string) *side {
	return &side{name: name, tidy: func() error { return nil }, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16, DisableCompression: true}}}
}

// startFloor starts this program as the floor.
func startFloor(ctx context.Context, dir string) (*side, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own program: %w", err)
	}
	addr, err := freeAddr(ctx)
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "floor")
	if err := os.Mkdir(data, 0o700); err != nil {
		return nil, fmt.Errorf("make the floor's folder: %w", err)
	}
	cmd := exec.CommandContext(ctx, self, "floor", data, addr)
	cmd.Stderr = os.Stderr
	if err := testenv.StartBound(cmd); err != nil {
		return nil, fmt.Errorf("start the floor: %w", err)
	}
	s := newSide("floor")
	s.url, s.pids = "http://"+addr, []int{cmd.Process.Pid}
	s.tidy = func() error { return forget(data) }
	s.stop = func() {
		_ = cmd.Process.Kill() // it has nothing to finish
		_ = cmd.Wait()
	}
	for range 500 {
		if answer, err := s.http.Get(s.url); err == nil {
			return s, answer.Body.Close()
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.stop()
	return nil, errors.New("the floor does not answer")
}

func freeAddr(ctx context.Context) (string, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// startProduct starts the built program with its database, and takes a job there
// as a host does, for the token that its cache clients have.
func startProduct(ctx context.Context, dir string) (_ *side, err error) {
	plane, err := replica.Start(ctx, dir, "")
	if err != nil {
		return nil, err
	}
	s := newSide("nimbus")
	s.url, s.pids, s.stop, s.adminToken = plane.URL, []int{plane.PID()}, plane.Stop, plane.TokenFile
	defer func() {
		if err != nil {
			s.stop()
		}
	}()
	if s.token, err = takeJob(ctx, plane); err != nil {
		return nil, fmt.Errorf("take a job: %w", err)
	}
	return s, nil
}

// takeJob submits a job and takes it as a host that then leaves it alone.
func takeJob(ctx context.Context, plane *replica.Plane) (token string, err error) {
	hosts, err := replica.Join(ctx, plane.Client, 1, 1)
	if err != nil {
		return "", err
	}
	_, err = plane.Client.Submit(ctx, client.Submission{Spec: nimbus.Spec{Command: []string{"true"}, Timeout: 24 * time.Hour}})
	if err != nil {
		return "", fmt.Errorf("submit: %w", err)
	}
	h := hosts[0]
	for token == "" {
		offers, err := h.Poll(ctx, time.Second)
		if err != nil {
			return "", fmt.Errorf("poll: %w", err)
		}
		for _, o := range offers {
			h.Hold(o.GetLease())
			a, err := h.Accept(ctx, o.GetLease())
			if err != nil {
				return "", fmt.Errorf("accept: %w", err)
			}
			token = a.GetCacheToken()
		}
	}
	go renew(ctx, h)
	return token, nil
}

// renew keeps the job for as long as this program runs: with it the token ends.
func renew(ctx context.Context, h *simhost.Host) {
	for {
		_, _ = h.Heartbeat(ctx) // the next one may come through
		time.Sleep(5 * time.Second)
	}
}

// call makes a call of the cache service.
func (s *side) call(ctx context.Context, method string, fields map[string]any) (answer map[string]any, err error) {
	fields["version"] = version
	body, err := json.Marshal(fields)
	if err != nil {
		return nil, fmt.Errorf("write a call: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+"/twirp/github.actions.results.api.v1.CacheService/"+method, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make a call: %w", err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+s.token)
	response, err := s.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", method, err)
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err == nil {
		err = json.Unmarshal(raw, &answer)
	}
	if err != nil || answer["ok"] != true {
		return nil, fmt.Errorf("%s answers %s: %.300s", method, response.Status, raw)
	}
	return answer, nil
}

// begin takes a key, and returns where its content goes.
func (s *side) begin(ctx context.Context, key string) (target string, err error) {
	answer, err := s.call(ctx, "CreateCacheEntry", map[string]any{"key": key})
	if err != nil {
		return "", err
	}
	return fmt.Sprint(answer["signed_upload_url"]), nil
}

// find is where a key's content is.
func (s *side) find(ctx context.Context, key string) (target string, err error) {
	answer, err := s.call(ctx, "GetCacheEntryDownloadURL", map[string]any{"key": key})
	if err != nil {
		return "", err
	}
	return fmt.Sprint(answer["signed_download_url"]), nil
}

// join adds a query to a URL that may have one.
func join(target string, query url.Values) string {
	u, err := url.Parse(target)
	if err != nil {
		return target
	}
	have := u.Query()
	for k, v := range query {
		have[k] = v
	}
	u.RawQuery = have.Encode()
	return u.String()
}
