package githubtest

import (
	"encoding/base64"
	"fmt"
	"iter"
	"maps"
	"strings"
	"time"
)

// object is a JSON object.
type object = map[string]any

// stamp is GitHub's form of a time.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// orNull gives JSON's null for a zero value.
func orNull[T comparable](v T) any {
	var zero T
	if v == zero {
		return nil
	}
	return v
}

func stampOrNull(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return stamp(t)
}

// some makes an empty list of a nil one, which JSON would have as null.
func some[T any](in []T) []T {
	if in == nil {
		return []T{}
	}
	return in
}

func keys[K comparable, V any](m map[K]V) iter.Seq[K] { return maps.Keys(m) }

// nodeID is the form of GitHub's global ids.
func nodeID(kind string, id int64) string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%03d:%s%d", len(kind), kind, id))
}

// account is whose the installation is.
const account = "octo-org"

// permissions are what Nimbus asks for.
func permissions() map[string]string {
	return map[string]string{"actions": "write", "administration": "write", "checks": "write", "contents": "read", "metadata": "read"}
}

// urls makes the address fields of an object from what follows its base.
func urls(base string, suffixes string) object {
	out := object{"url": base}
	for field := range strings.FieldsSeq(suffixes) {
		name, suffix, _ := strings.Cut(field, "=")
		out[name+"_url"] = base + suffix
	}
	return out
}

func (s *Server) userJSON(login, kind string) object {
	u := urls(s.url+"/users/"+login, `events=/events{/privacy} followers=/followers following=/following{/other_user}
		gists=/gists{/gist_id} organizations=/orgs received_events=/received_events repos=/repos
		starred=/starred{/owner}{/repo} subscriptions=/subscriptions`)
	maps.Copy(u, object{
		"login": login, "id": 101, "node_id": nodeID(kind, 101), "type": kind, "site_admin": false, "gravatar_id": "",
		"avatar_url": s.url + "/avatars/101", "html_url": s.url + "/" + login,
	})
	return u
}

func (s *Server) appJSON() object {
	return object{
		"id": s.cfg.AppID, "slug": "nimbus", "node_id": nodeID("App", s.cfg.AppID), "name": "Nimbus", "description": "",
		"owner": s.userJSON("nimbus", "Organization"), "external_url": s.url, "html_url": s.url + "/apps/nimbus",
		"created_at": stamp(time.Unix(0, 0)), "updated_at": stamp(time.Unix(0, 0)),
		"permissions": s.granted, "events": s.events, "installations_count": 1,
	}
}

func (s *Server) installationJSON() object {
	base := s.url + "/app/installations/" + fmt.Sprint(s.cfg.InstallationID)
	// The description of the listing wants an account to be both a user and an
	// enterprise (allOf where anyOf is meant), so it has the fields of both.
	owner := s.userJSON(account, "Organization")
	maps.Copy(owner, object{"name": account, "slug": account, "created_at": stamp(time.Unix(0, 0)), "updated_at": stamp(time.Unix(0, 0))})
	out := object{
		"id": s.cfg.InstallationID, "app_id": s.cfg.AppID, "app_slug": "nimbus", "target_id": 101, "target_type": "Organization",
		"account": owner, "single_file_name": nil, "repository_selection": "all",
		"access_tokens_url": base + "/access_tokens", "repositories_url": s.url + "/installation/repositories", "html_url": base,
		"events": s.events, "permissions": s.granted,
		"created_at": stamp(time.Unix(0, 0)), "updated_at": stamp(time.Unix(0, 0)), "suspended_by": nil, "suspended_at": nil,
	}
	if s.suspended {
		out["suspended_at"], out["suspended_by"] = stamp(s.now()), s.userJSON(account, "Organization")
	}
	return out
}

// repositoryJSON has all fields that any of GitHub's schemas of a repository
// requires.
func (s *Server) repositoryJSON(r *repository) object {
	html := s.url + "/" + r.fullName()
	out := urls(s.url+"/repos/"+r.fullName(), `archive=/{archive_format}{/ref} assignees=/assignees{/user} blobs=/git/blobs{/sha}
		branches=/branches{/branch} collaborators=/collaborators{/collaborator} comments=/comments{/number} commits=/commits{/sha}
		compare=/compare/{base}...{head} contents=/contents/{+path} contributors=/contributors deployments=/deployments
		downloads=/downloads events=/events forks=/forks git_commits=/git/commits{/sha} git_refs=/git/refs{/sha} git_tags=/git/tags{/sha}
		hooks=/hooks issue_comment=/issues/comments{/number} issue_events=/issues/events{/number} issues=/issues{/number}
		keys=/keys{/key_id} labels=/labels{/name} languages=/languages merges=/merges milestones=/milestones{/number}
		notifications=/notifications{?since,all,participating} pulls=/pulls{/number} releases=/releases{/id} stargazers=/stargazers
		statuses=/statuses/{sha} subscribers=/subscribers subscription=/subscription tags=/tags teams=/teams trees=/git/trees{/sha}`)
	maps.Copy(out, object{
		"id": r.id, "node_id": nodeID("Repository", r.id), "name": r.name, "full_name": r.fullName(), "owner": s.userJSON(r.owner, "Organization"),
		"private": false, "visibility": "public", "html_url": html, "description": nil, "fork": false, "default_branch": "main",
		"clone_url": html + ".git", "git_url": html + ".git", "ssh_url": "ssh://git@127.0.0.1/" + r.fullName() + ".git", "svn_url": html,
		"mirror_url": nil, "homepage": nil, "language": nil, "license": nil, "topics": []string{},
		"archived": false, "disabled": false, "is_template": false, "allow_forking": true, "web_commit_signoff_required": false,
		"has_issues": true, "has_projects": false, "has_downloads": false, "has_wiki": false, "has_pages": false, "has_discussions": false,
		"forks": 0, "forks_count": 0, "open_issues": 0, "open_issues_count": 0, "watchers": 0, "watchers_count": 0,
		"stargazers_count": 0, "network_count": 0, "subscribers_count": 0, "size": 1,
		"created_at": stamp(r.createdAt), "updated_at": stamp(r.createdAt), "pushed_at": stamp(r.createdAt),
	})
	return out
}

// json is the runner as the API shows it.
func (r *runner) json() object {
	status := "offline"
	if r.session != "" {
		status = "online"
	}
	labels := []object{}
	for i, label := range r.labels {
		labels = append(labels, object{"id": i + 1, "name": label, "type": "custom"})
	}
	return object{
		"id": r.id, "name": r.name, "os": "Linux", "status": status, "busy": r.job != nil,
		"labels": labels, "runner_group_id": 1, "ephemeral": true, "version": orNull(r.version),
	}
}

func (s *Server) jobPage(j *job) string {
	return fmt.Sprintf("%s/%s/actions/runs/%d/job/%d", s.url, j.run.repo.fullName(), j.run.id, j.id)
}

// jobJSON is the job as the API and the webhook show it.
func (s *Server) jobJSON(j *job) object {
	api := s.url + "/repos/" + j.run.repo.fullName()
	out := object{
		"id": j.id, "run_id": j.run.id, "run_attempt": j.attempt, "node_id": nodeID("CheckRun", j.id),
		"run_url": fmt.Sprintf("%s/actions/runs/%d", api, j.run.id), "url": fmt.Sprintf("%s/actions/jobs/%d", api, j.id),
		"html_url": s.jobPage(j), "check_run_url": fmt.Sprintf("%s/check-runs/%d", api, j.id),
		"head_sha": j.run.sha, "head_branch": j.run.branch(), "name": j.spec.Name, "workflow_name": j.run.workflow.Name,
		"status": j.status, "conclusion": orNull(j.conclusion), "labels": some(j.spec.RunsOn),
		"created_at": stamp(j.createdAt), "started_at": stamp(j.startedAt), "completed_at": stampOrNull(j.completedAt),
		"steps": s.stepsJSON(j), "runner_id": nil, "runner_name": nil, "runner_group_id": nil, "runner_group_name": nil,
	}
	// Until it has begun, GitHub shows no runner, even where one is assigned.
	if j.runnerID != 0 && !j.startedAtRunner().IsZero() {
		out["runner_id"], out["runner_name"] = j.runnerID, j.runnerName
		out["runner_group_id"], out["runner_group_name"] = 1, "Default"
	}
	return out
}

// startedAtRunner is when a runner began it, zero when none did.
func (j *job) startedAtRunner() time.Time { return j.renewedAt }

func (s *Server) stepsJSON(j *job) []object {
	out := []object{}
	for _, st := range j.steps {
		out = append(out, object{
			"name": st.name, "number": st.number, "status": st.status, "conclusion": orNull(st.conclusion),
			"started_at": stampOrNull(st.startedAt), "completed_at": stampOrNull(st.completedAt),
		})
	}
	return out
}

// branch is the name of the branch, or the tag, that the run is of.
func (r *run) branch() string { return r.origin.Branch }

func (s *Server) runJSON(r *run) object {
	base := fmt.Sprintf("%s/repos/%s/actions/runs/%d", s.url, r.repo.fullName(), r.id)
	out := urls(base, "jobs=/jobs logs=/logs check_suite=/check-suite cancel=/cancel rerun=/rerun artifacts=/artifacts workflow=/workflow")
	maps.Copy(out, object{
		"id": r.id, "node_id": nodeID("WorkflowRun", r.id), "name": r.workflow.Name, "path": r.workflow.Path, "display_title": r.workflow.Name,
		"run_number": r.number, "run_attempt": r.attempt, "event": r.origin.Event, "workflow_id": 1, "check_suite_id": r.id,
		"html_url": fmt.Sprintf("%s/%s/actions/runs/%d", s.url, r.repo.fullName(), r.id), "previous_attempt_url": nil,
		"head_branch": r.branch(), "head_sha": r.sha, "status": r.status(), "conclusion": nil, "pull_requests": s.pullsJSON(r),
		"created_at": stamp(r.createdAt), "updated_at": stamp(r.updatedAt), "run_started_at": stamp(r.createdAt),
		"repository": s.repositoryJSON(r.repo), "head_repository": s.headJSON(r),
		"head_commit": object{
			"id": r.sha, "tree_id": r.sha, "message": "push", "timestamp": stamp(r.createdAt),
			"author": object{"name": "octocat", "email": "octocat@example.com"}, "committer": object{"name": "octocat", "email": "octocat@example.com"},
		},
		"actor": s.userJSON("octocat", "User"), "triggering_actor": s.userJSON("octocat", "User"),
	})
	if r.over() {
		out["conclusion"] = r.conclusion()
	}
	return out
}

// jobEvent is the body of a workflow_job webhook.
func (s *Server) jobEvent(j *job, action string) object {
	return object{
		"action": action, "workflow_job": s.jobJSON(j), "repository": s.repositoryJSON(j.run.repo),
		"organization": s.organizationJSON(j.run.repo.owner), "sender": s.userJSON("octocat", "User"),
		"installation": object{"id": s.cfg.InstallationID, "node_id": nodeID("Integration", s.cfg.InstallationID)},
	}
}

func (s *Server) organizationJSON(login string) object {
	out := urls(s.url+"/orgs/"+login, "repos=/repos events=/events hooks=/hooks issues=/issues members=/members{/member} public_members=/public_members{/member}")
	maps.Copy(out, object{
		"login": login, "id": 101, "node_id": nodeID("Organization", 101), "avatar_url": s.url + "/avatars/101", "description": "",
	})
	return out
}
