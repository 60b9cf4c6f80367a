package githubtest

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// Origin is what a run comes from.
type Origin struct {
	Event  string // default push
	Branch string // that was pushed, or is to be merged; of Tag, the tag. Default main
	Tag    bool
	// Fork is the repository with the branch of a pull request that comes from
	// another one: GitHub does not tell the number of those.
	Fork string
	Pull int64  // the number of the pull request
	Base string // of the pull request, default main
}

// ref is what the run sees as its own.
func (o Origin) ref() string {
	switch {
	case o.Pull > 0:
		return fmt.Sprintf("refs/pull/%d/merge", o.Pull)
	case o.Tag:
		return "refs/tags/" + o.Branch
	}
	return "refs/heads/" + o.Branch
}

// take has a repository know a commit. s.mu is held.
func (r *repository) take(o Origin, sha string) Origin {
	o.Event, o.Branch, o.Base = cmp.Or(o.Event, "push"), cmp.Or(o.Branch, "main"), cmp.Or(o.Base, "main")
	switch {
	case o.Tag:
		r.tags[o.Branch] = sha
	case o.Fork == "":
		r.branches[o.Branch] = append(r.branches[o.Branch], sha)
	}
	return o
}

// DeleteTag removes a tag; the runs of it stay.
func (s *Server) DeleteTag(repo, tag string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.repos[strings.ToLower(repo)]; r != nil {
		delete(r.tags, tag)
	}
}

func refOperations() map[string]operation {
	return map[string]operation{"git/list-matching-refs": matchingRefs, "repos/compare-commits-with-basehead": compareCommits}
}

// mayReadContents refuses as GitHub does.
func (s *Server) mayReadContents() error {
	if s.granted["contents"] == "" {
		return &apiError{status: http.StatusForbidden, message: "Resource not accessible by integration"}
	}
	return nil
}

func matchingRefs(s *Server, r *request) (answer, error) {
	repo, err := s.repo(r)
	if err == nil {
		err = s.mayReadContents()
	}
	if err != nil {
		return answer{}, err
	}
	all := map[string]string{}
	for name, commits := range repo.branches {
		all["refs/heads/"+name] = commits[len(commits)-1]
	}
	for name, sha := range repo.tags {
		all["refs/tags/"+name] = sha
	}
	found := []object{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if strings.HasPrefix(name, "refs/"+r.PathValue("ref")) {
			at := s.url + "/repos/" + repo.fullName() + "/git/"
			found = append(found, object{"ref": name, "node_id": nodeID("Ref", 1), "url": at + name, "object": object{
				"type": "commit", "sha": all[name], "url": at + "commits/" + all[name],
			}})
		}
	}
	return answer{status: http.StatusOK, body: found}, nil
}

// compareCommits knows the commits of one branch as one line.
func compareCommits(s *Server, r *request) (answer, error) {
	repo, err := s.repo(r)
	if err == nil {
		err = s.mayReadContents()
	}
	base, head, ok := strings.Cut(r.PathValue("basehead"), "...")
	if err == nil && !ok {
		err = notFound()
	}
	if err != nil {
		return answer{}, err
	}
	status := "diverged"
	for _, commits := range repo.branches {
		switch b, h := slices.Index(commits, base), slices.Index(commits, head); {
		case b < 0 || h < 0:
		case b == h:
			status = "identical"
		case b > h:
			status = "behind"
		default:
			status = "ahead"
		}
	}
	page := s.url + "/" + repo.fullName() + "/compare/" + base + "..." + head
	return answer{status: http.StatusOK, body: object{
		"url": s.url + r.URL.Path, "html_url": page, "permalink_url": page, "diff_url": page + ".diff", "patch_url": page + ".patch",
		"base_commit": s.commitJSON(repo, base), "merge_base_commit": s.commitJSON(repo, base), "status": status,
		"ahead_by": 0, "behind_by": 0, "total_commits": 0, "commits": []object{}, "files": []object{},
	}}, nil
}

func (s *Server) commitJSON(r *repository, sha string) object {
	api := s.url + "/repos/" + r.fullName()
	who := object{"name": "octocat", "email": "octocat@example.com", "date": stamp(r.createdAt)}
	return object{
		"url": api + "/commits/" + sha, "sha": sha, "node_id": nodeID("Commit", 1), "html_url": s.url + "/" + r.fullName() + "/commit/" + sha,
		"comments_url": api + "/commits/" + sha + "/comments", "author": s.userJSON("octocat", "User"), "committer": s.userJSON("octocat", "User"),
		"parents": []object{}, "commit": object{
			"url": api + "/git/commits/" + sha, "author": who, "committer": who, "message": "push", "comment_count": 0,
			"tree": object{"sha": sha, "url": api + "/git/trees/" + sha},
		},
	}
}

// pullsJSON are the pull requests of a run, as far as GitHub tells.
func (s *Server) pullsJSON(r *run) []object {
	if r.origin.Pull == 0 || r.origin.Fork != "" {
		return []object{}
	}
	repo := object{"id": r.repo.id, "url": s.url + "/repos/" + r.repo.fullName(), "name": r.repo.name}
	return []object{{
		"id": r.origin.Pull, "number": r.origin.Pull, "url": fmt.Sprintf("%s/repos/%s/pulls/%d", s.url, r.repo.fullName(), r.origin.Pull),
		"head": object{"ref": r.origin.Branch, "sha": r.sha, "repo": repo}, "base": object{"ref": r.origin.Base, "sha": r.sha, "repo": repo},
	}}
}

// headJSON is the repository with the run's branch.
func (s *Server) headJSON(r *run) object {
	if owner, name, ok := strings.Cut(r.origin.Fork, "/"); ok {
		return s.repositoryJSON(s.repository(owner, name))
	}
	return s.repositoryJSON(r.repo)
}
