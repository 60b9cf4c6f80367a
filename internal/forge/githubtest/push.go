package githubtest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus/internal/forge/githubtest/workflow"
)

// Bounds of a repository that is pushed; a larger one is refused.
const (
	maxRepoBytes = 64 << 20
	maxRepoFiles = 20_000
)

// Run is a run as tests and the demo see it.
type Run struct {
	ID, Number, Attempt int64
	Workflow            string
	Status              string // queued, in_progress, completed
	Conclusion          string // success, failure, cancelled once completed
	Jobs                []Job  // of the current attempt, in the file's order
}

// Job is a job as tests and the demo see it.
type Job struct {
	ID         int64
	Attempt    int64
	Key        string // in the workflow file
	Name       string
	Labels     []string
	Status     string // blocked until its needs have ended
	Conclusion string
	RunnerID   int64
	RunnerName string
	CreatedAt  time.Time
	StartedAt  time.Time
	Steps      []Step
	Log        string
}

// Step is a step of a job that has begun.
type Step struct {
	Number     int
	Name       string
	Status     string
	Conclusion string
}

// Push is a push of tree to main of the repository "owner/name", which is made
// when it is new: every file of .github/workflows becomes a run, and the jobs
// that need no other are queued. os.DirFS gives the tree of a folder. It
// returns the ids of the runs.
func (s *Server) Push(ctx context.Context, repo string, tree fs.FS) ([]int64, error) {
	return s.PushAs(ctx, repo, tree, Origin{})
}

// PushAs is Push of something else than a push to main.
func (s *Server) PushAs(ctx context.Context, repo string, tree fs.FS, from Origin) ([]int64, error) {
	owner, name, ok := strings.Cut(repo, "/")
	if !ok || owner == "" || name == "" || strings.Contains(name, "/") {
		return nil, fmt.Errorf("%q is no owner/name", repo)
	}
	workflows, err := workflow.ReadAll(tree)
	if err != nil {
		return nil, err
	}
	archive, sha, err := pack(ctx, tree)
	if err != nil {
		return nil, fmt.Errorf("pack %s: %w", repo, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.repository(owner, name)
	from = r.take(from, sha)
	var ids []int64
	for _, w := range workflows {
		r.lastRun++
		made := &run{
			id: s.nextID(), number: r.lastRun, attempt: 1, repo: r, workflow: w,
			sha: sha, ref: from.ref(), origin: from, archive: archive, createdAt: s.now(), updatedAt: s.now(),
		}
		for _, spec := range w.Jobs {
			made.jobs = append(made.jobs, s.newJob(made, spec))
		}
		s.runs[made.id] = made
		ids = append(ids, made.id)
	}
	s.advance()
	return ids, nil
}

// AddRepository gives the installation a repository without a push.
func (s *Server) AddRepository(owner, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.repository(owner, name)
}

// repository finds or makes one. s.mu is held.
func (s *Server) repository(owner, name string) *repository {
	key := strings.ToLower(owner + "/" + name)
	if s.repos[key] == nil {
		s.repos[key] = &repository{
			id: s.nextID(), owner: owner, name: name, createdAt: s.now(), branches: map[string][]string{}, tags: map[string]string{},
		}
	}
	return s.repos[key]
}

// newJob makes a blocked job of the run's current attempt. s.mu is held.
func (s *Server) newJob(r *run, spec workflow.Job) *job {
	j := &job{id: s.nextID(), run: r, attempt: r.attempt, spec: spec, status: blocked}
	s.jobs[j.id] = j
	return j
}

// Run returns a run as it is.
func (s *Server) Run(id int64) (Run, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.runs[id]
	if !ok {
		return Run{}, false
	}
	return r.public(), true
}

// WaitRun waits until all jobs of a run have ended and all deliveries were
// sent.
func (s *Server) WaitRun(ctx context.Context, id int64) (Run, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.runs[id]
	if !ok {
		return Run{}, fmt.Errorf("no run %d", id)
	}
	err := s.await(ctx, func() bool { return r.over() && s.flushed() })
	if err != nil {
		err = fmt.Errorf("wait for run %d: %w", id, err)
	}
	return r.public(), err
}

// WaitJob waits until ready is content with a job.
func (s *Server) WaitJob(ctx context.Context, id int64, ready func(Job) bool) (Job, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j, ok := s.jobs[id]
	if !ok {
		return Job{}, fmt.Errorf("no job %d", id)
	}
	err := s.await(ctx, func() bool { return ready(j.public()) })
	if err != nil {
		err = fmt.Errorf("wait for job %d (%s): %w", id, j.status, err)
	}
	return j.public(), err
}

func (r *run) public() Run {
	out := Run{ID: r.id, Number: r.number, Attempt: r.attempt, Workflow: r.workflow.Name, Status: r.status()}
	if r.over() {
		out.Conclusion = r.conclusion()
	}
	for _, j := range r.jobs {
		out.Jobs = append(out.Jobs, j.public())
	}
	return out
}

func (j *job) public() Job {
	out := Job{
		ID: j.id, Attempt: j.attempt, Key: j.spec.Key, Name: j.spec.Name, Labels: slices.Clone(j.spec.RunsOn),
		Status: j.status, Conclusion: j.conclusion, RunnerID: j.runnerID, RunnerName: j.runnerName, Log: string(j.log),
		CreatedAt: j.createdAt, StartedAt: j.startedAt,
	}
	for _, st := range j.steps {
		out.Steps = append(out.Steps, Step{st.number, st.name, st.status, st.conclusion})
	}
	return out
}

// pack makes the archive that actions/checkout unpacks, and a commit id of its
// content. Links are kept as they are: the runner unpacks below one folder
// whatever they say. A script without an executable bit gets one, since
// embedded files have none.
func pack(ctx context.Context, tree fs.FS) (archive []byte, sha string, err error) {
	var out bytes.Buffer
	zipped := gzip.NewWriter(&out)
	sum := sha1.New() // git's
	w := tar.NewWriter(zipped)
	size, files := int64(0), 0
	err = fs.WalkDir(tree, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if entry.IsDir() {
			if entry.Name() == ".git" {
				return fs.SkipDir
			}
			return nil
		}
		header, content, err := packOne(tree, name, entry)
		if err != nil {
			return err
		}
		size += header.Size
		if files++; files > maxRepoFiles || size > maxRepoBytes {
			return fmt.Errorf("more than %d files or %d bytes", maxRepoFiles, maxRepoBytes)
		}
		fmt.Fprintf(sum, "%q %o %q %x\n", name, header.Mode, header.Linkname, sha1.Sum(content))
		if err := w.WriteHeader(header); err != nil {
			return err
		}
		_, err = w.Write(content)
		return err
	})
	if err == nil {
		err = w.Close()
	}
	if err == nil {
		err = zipped.Close()
	}
	return out.Bytes(), hex.EncodeToString(sum.Sum(nil)), err
}

func packOne(tree fs.FS, name string, entry fs.DirEntry) (*tar.Header, []byte, error) {
	header := &tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
	if entry.Type()&fs.ModeSymlink != 0 {
		target, err := fs.ReadLink(tree, name)
		header.Typeflag, header.Linkname = tar.TypeSymlink, target
		return header, nil, err
	}
	info, err := entry.Info()
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s is no file", name)
	}
	if info.Size() > maxRepoBytes {
		return nil, nil, fmt.Errorf("%s has %d bytes", name, info.Size())
	}
	content, err := fs.ReadFile(tree, name)
	if err != nil {
		return nil, nil, err
	}
	header.Size = int64(len(content))
	if info.Mode()&0o111 != 0 || bytes.HasPrefix(content, []byte("#!")) {
		header.Mode = 0o755
	}
	return header, content, nil
}
