package nimbus

// RunOrigin is what a workflow run came from, as GitHub tells it. Who may change
// what a branch restores is decided by it.
type RunOrigin struct {
	Event string `json:"event"` // push, pull_request, …
	// HeadBranch is a branch or a tag, of HeadRepo; "" for one whose name is not
	// kept to what GitHub allows.
	HeadBranch string `json:"head_branch"`
	HeadRepo   string `json:"head_repo"` // owner/name in lower case; "" for one that is gone
	// DefaultBranch is that of the run's own repository.
	DefaultBranch string `json:"default_branch"`
	// OnBranch says that the run's commit is on the branch HeadBranch of the run's
	// own repository, and that no tag has its name. Unsure is why that is not known.
	OnBranch bool   `json:"on_branch,omitempty"`
	Unsure   string `json:"unsure,omitempty"`
	// Pull is the only pull request that the run can be of, with its base; 0
	// where that is not known, as for a fork's.
	Pull       int64  `json:"pull,omitempty"`
	BaseBranch string `json:"base_branch,omitempty"`
}
