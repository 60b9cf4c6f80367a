package githubtest

import (
	"fmt"
	"net/http"
	"slices"

	nimbus "github.com/nimbus-ci/nimbus"
)

// releaseOperations are about releases: those of the runner alone.
func releaseOperations() map[string]operation {
	return map[string]operation{"repos/list-releases": listReleases}
}

// SetRunnerReleases says which releases of GitHub's runner there are, newest
// first. While there are none the double is like a GitHub Enterprise Server: it
// has no such repository. With some, a runner that is a month behind is refused.
func (s *Server) SetRunnerReleases(releases ...nimbus.RunnerRelease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.releases = slices.Clone(releases)
}

func listReleases(s *Server, r *request) (answer, error) {
	if r.PathValue("owner") != "actions" || r.PathValue("repo") != "runner" || len(s.releases) == 0 {
		return answer{}, notFound()
	}
	var all []object
	for i, release := range s.releases {
		all = append(all, s.releaseJSON(int64(len(s.releases)-i), release))
	}
	return answer{status: http.StatusOK, body: page(r, all)}, nil
}

func (s *Server) releaseJSON(id int64, r nimbus.RunnerRelease) object {
	const repo = "/repos/actions/runner"
	tag := "v" + r.Version
	at := fmt.Sprintf("%s%s/releases/%d", s.url, repo, id)
	return object{
		"url": at, "html_url": s.url + "/actions/runner/releases/tag/" + tag, "assets_url": at + "/assets", "upload_url": at + "/assets{?name,label}",
		"tarball_url": s.url + repo + "/tarball/" + tag, "zipball_url": s.url + repo + "/zipball/" + tag,
		"id": id, "node_id": nodeID("Release", id), "tag_name": tag, "target_commitish": "main", "name": tag, "body": "",
		"draft": false, "prerelease": false, "created_at": stamp(r.PublishedAt), "published_at": stamp(r.PublishedAt),
		"author": s.userJSON("actions", "Organization"), "assets": []object{},
	}
}

// deprecated tells whether GitHub gives no jobs to a version any more. s.mu is
// held.
func (s *Server) deprecated(version string) error {
	known := nimbus.RunnerReleases{Releases: s.releases}
	if at := known.Standing(version).RefusedAt; !at.IsZero() && !s.now().Before(at) {
		return &apiError{status: http.StatusForbidden, message: fmt.Sprintf("Runner version v%s is deprecated and cannot receive messages.", version)}
	}
	return nil
}
