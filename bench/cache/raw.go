package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nimbus-ci/nimbus/bench/process"
)

// phase is something that both sides do with as many bytes, in turns.
type phase struct {
	name  string
	bytes int64
	goal  float64 // the least ratio; 0 for none
	run   func(ctx context.Context, s *side, round int) error

	rates, floors, ratios []float64 // MB/s
	cpu, floorCPU         []float64 // seconds per GiB
}

// raw measures uploads and downloads by a client that does nothing else.
func (b *bench) raw(ctx context.Context) error {
	content := make([]byte, 64*mib)
	rand.Read(content)
	for _, s := range []*side{b.product, b.base} {
		if err := b.prepare(ctx, s, content); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	put := func(clients int, bytes, block int64) func(context.Context, *side, int) error {
		return func(ctx context.Context, s *side, round int) error {
			return together(ctx, clients, func(ctx context.Context, i int) error {
				return s.save(ctx, fmt.Sprintf("put-%d-%d-%d-%d", clients, block, round, i), content, bytes/int64(clients), block)
			})
		}
	}
	get := func(clients, each int, key func(i, n int) string, size int64) func(context.Context, *side, int) error {
		return func(ctx context.Context, s *side, _ int) error {
			return together(ctx, clients, func(ctx context.Context, i int) error {
				for n := range each {
					if err := s.restore(ctx, key(i, n), size); err != nil {
						return err
					}
				}
				return nil
			})
		}
	}
	large := func(int, int) string { return kept }
	each := b.small / 8
	phases := []*phase{
		{name: "put_1", bytes: b.put, goal: putGoal, run: put(1, b.put, 64*mib)},
		{name: "put_8", bytes: b.put, goal: putGoal, run: put(8, b.put, 64*mib)},
		{name: "put_small_1", bytes: b.putSmall, goal: putGoal, run: put(1, b.putSmall, mib)},
		{name: "put_small_8", bytes: b.putSmall, goal: putGoal, run: put(8, b.putSmall, mib)},
		{name: "get_1", bytes: b.entry, goal: getGoal, run: get(1, 1, large, b.entry)},
		{name: "get_8", bytes: 8 * b.entry, goal: getGoal, run: get(8, 1, large, b.entry)},
		{name: "get_small_8", bytes: 8 * int64(each) * mib, run: get(8, each, func(i, n int) string { return fmt.Sprintf("%s-%d", kept, i*each+n) }, mib)},
	}
	for round := range b.rounds {
		for _, p := range phases {
			if err := b.turn(ctx, p, round); err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
		}
	}
	b.tell(phases)
	return nil
}

const (
	putGoal = 0.8
	getGoal = 0.85
)

// prepare saves what is downloaded, and looks whether it comes back as it was.
func (b *bench) prepare(ctx context.Context, s *side, content []byte) error {
	if err := s.save(ctx, kept, content, b.entry, 64*mib); err != nil {
		return err
	}
	for i := range b.small {
		if err := s.save(ctx, fmt.Sprintf("%s-%d", kept, i), content[i*512:], mib, mib); err != nil {
			return err
		}
	}
	target, err := s.find(ctx, kept)
	if err != nil {
		return err
	}
	answer, err := s.get(ctx, target)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	want, got := sha256.New(), sha256.New()
	for left := b.entry; left > 0; left -= int64(len(content)) {
		want.Write(content[:min(left, int64(len(content)))])
	}
	if _, err := io.Copy(got, answer.Body); err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if !bytes.Equal(want.Sum(nil), got.Sum(nil)) {
		return fmt.Errorf("what was saved comes back otherwise")
	}
	return nil
}

// turn runs one round of a phase on both sides, of which the one is first in every
// other round.
func (b *bench) turn(ctx context.Context, p *phase, round int) error {
	var rate, cpu [2]float64
	for i := range 2 {
		at := (i + round) % 2
		s := [2]*side{b.product, b.base}[at]
		before, err := s.cpu()
		if err != nil {
			return err
		}
		began := time.Now()
		if err := p.run(ctx, s, round); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		took := time.Since(began)
		after, err := s.cpu()
		if err != nil {
			return err
		}
		rate[at] = float64(p.bytes) / 1e6 / took.Seconds()
		cpu[at] = (after - before).Seconds() / (float64(p.bytes) / (1 << 30))
		if err := s.tidy(); err != nil {
			return err
		}
	}
	p.rates, p.floors, p.ratios = append(p.rates, rate[0]), append(p.floors, rate[1]), append(p.ratios, rate[0]/rate[1])
	p.cpu, p.floorCPU = append(p.cpu, cpu[0]), append(p.floorCPU, cpu[1])
	progress("round %d %s: %.0f MB/s, floor %.0f: %.2f; CPU s per GiB %.2f, floor %.2f", round+1, p.name, rate[0], rate[1], rate[0]/rate[1], cpu[0], cpu[1])
	return nil
}

func (s *side) cpu() (sum time.Duration, err error) {
	for _, pid := range s.pids {
		used, err := process.CPU(pid)
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}

const floorWhat = "a plain Go server that hashes, syncs and sends the same bytes"

func fine(float64, float64) bool { return true }

func (b *bench) tell(phases []*phase) {
	for _, p := range phases {
		goal, ok := "", fine
		if p.goal > 0 {
			goal, ok = fmt.Sprintf("ratio>=%g", p.goal), func(_, ratio float64) bool { return ratio >= p.goal }
		}
		b.report.AddPaired(p.name, "MB/s", p.rates, p.floors, floorWhat, goal, ok)
	}
	for _, p := range phases {
		if strings.HasSuffix(p.name, "_8") {
			b.report.AddPaired(p.name+"_cpu_s_per_gib", "s", p.cpu, p.floorCPU, floorWhat, "", fine)
		}
	}
	peak, err := process.PeakRSS(b.product.pids[0])
	if err == nil {
		b.report.Add("rss_mb", "MB", []float64{float64(peak) / 1e6}, nil, "", "value<=100", func(v, _ float64) bool { return v <= 100 })
	}
}

// together has some do something at once.
func together(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	all, ctx := errgroup.WithContext(ctx)
	for i := range n {
		all.Go(func() error { return do(ctx, i) })
	}
	return all.Wait()
}

// save saves so many bytes of a content, over and over, in blocks.
func (s *side) save(ctx context.Context, key string, content []byte, size, block int64) error {
	target, err := s.begin(ctx, key)
	if err != nil {
		return err
	}
	var list strings.Builder
	list.WriteString("<BlockList>")
	for at := int64(0); at < size; at += block {
		n := min(block, size-at)
		from := at % (int64(len(content)) - n + 1)
		id := base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%048d", at/block))
		fmt.Fprintf(&list, "<Latest>%s</Latest>", id)
		if err := s.put(ctx, join(target, url.Values{"comp": {"block"}, "blockid": {id}}), bytes.NewReader(content[from:from+n]), n); err != nil {
			return err
		}
	}
	list.WriteString("</BlockList>")
	if err := s.put(ctx, join(target, url.Values{"comp": {"blocklist"}}), strings.NewReader(list.String()), int64(list.Len())); err != nil {
		return err
	}
	_, err = s.call(ctx, "FinalizeCacheEntryUpload", map[string]any{"key": key, "size_bytes": size})
	return err
}

func (s *side) put(ctx context.Context, target string, body io.Reader, size int64) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPut, target, body)
	if err != nil {
		return fmt.Errorf("make an upload: %w", err)
	}
	r.ContentLength = size
	answer, err := s.http.Do(r)
	if err != nil {
		return fmt.Errorf("upload: %w", err)
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusCreated {
		return fmt.Errorf("an upload is answered by %s %.300s", answer.Status, said)
	}
	return nil
}

// restore looks a key up and reads all of its content.
func (s *side) restore(ctx context.Context, key string, size int64) error {
	target, err := s.find(ctx, key)
	if err != nil {
		return err
	}
	answer, err := s.get(ctx, target)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	n, err := io.CopyBuffer(nowhere{}, answer.Body, make([]byte, 256<<10))
	if err != nil || n != size {
		return fmt.Errorf("%d bytes of %d came: %w", n, size, err)
	}
	return nil
}

// nowhere takes bytes and does nothing with them. io.Discard would read in small
// pieces of its own.
type nowhere struct{}

// Write implements io.Writer.
func (nowhere) Write(p []byte) (int, error) { return len(p), nil }

func (s *side) get(ctx context.Context, target string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, fmt.Errorf("make a download: %w", err)
	}
	answer, err := s.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("download: %w", err)
	}
	if answer.StatusCode != http.StatusOK {
		answer.Body.Close()
		return nil, fmt.Errorf("a download is answered by %s", answer.Status)
	}
	return answer, nil
}
