package cli

import (
	"time"

	"github.com/nimbus-ci/nimbus"
)

// The views are what --json writes. Their names are a promise: fields are
// added, never renamed.

type jobView struct {
	ID           string            `json:"id"`
	Name         string            `json:"name"`
	Source       nimbus.Source     `json:"source"`
	State        nimbus.State      `json:"state"`
	Result       nimbus.Result     `json:"result,omitempty"`
	Reason       *reasonView       `json:"reason,omitempty"`
	ExitCode     *int              `json:"exit_code,omitempty"`
	Repo         string            `json:"repo,omitempty"`
	Labels       []string          `json:"labels,omitempty"`
	Class        classView         `json:"class"`
	AttemptID    string            `json:"attempt_id,omitempty"`
	AttemptCount int               `json:"attempt_count"`
	HostID       string            `json:"host_id,omitempty"`
	Command      []string          `json:"command,omitempty"`
	Timeline     map[string]string `json:"timeline"`
	LogLines     int64             `json:"log_lines"`
	LogComplete  bool              `json:"log_complete"`
	URL          string            `json:"url,omitempty"` // at GitHub
}

type reasonView struct {
	Code    nimbus.ReasonCode `json:"code"`
	Message string            `json:"message"`
}

type classView struct {
	Executor  string                `json:"executor,omitempty"`
	Image     string                `json:"image"`
	Arch      string                `json:"arch,omitempty"`
	CPUs      int                   `json:"cpus"`
	MemoryMiB int                   `json:"memory_mib"`
	Network   nimbus.NetworkProfile `json:"network"`
}

func viewJob(j nimbus.Job) jobView {
	v := jobView{
		ID: j.ID, Name: j.Name, Source: j.Source, State: j.State, Result: j.Result, ExitCode: j.ExitCode, Repo: j.Repo, Labels: j.Labels,
		Class: classView(j.Class), AttemptID: j.AttemptID, AttemptCount: j.AttemptCount, HostID: j.HostID, Command: j.Spec.Command,
		Timeline: map[string]string{}, LogLines: j.LogLines, LogComplete: j.LogComplete, URL: j.GitHub.HTMLURL,
	}
	if j.Reason.Code != "" {
		v.Reason = &reasonView{Code: j.Reason.Code, Message: j.Reason.Message}
	}
	for _, p := range phases(j.Timeline) {
		v.Timeline[p.key] = p.at.Format(time.RFC3339Nano)
	}
	return v
}

type eventView struct {
	Seq       int64     `json:"seq"`
	At        time.Time `json:"at"`
	Kind      string    `json:"kind"`
	AttemptID string    `json:"attempt_id,omitempty"`
	Actor     string    `json:"actor"`
	Detail    string    `json:"detail,omitempty"`
}

func viewEvent(e nimbus.JobEvent) eventView {
	return eventView{Seq: e.Seq, At: e.At, Kind: e.Kind, AttemptID: e.AttemptID, Actor: e.Actor, Detail: e.Detail}
}

type lineView struct {
	Seq    int64         `json:"seq"`
	At     time.Time     `json:"at"`
	Stream nimbus.Stream `json:"stream"`
	Step   int32         `json:"step"`
	Text   string        `json:"text"`
}

type hostView struct {
	ID        string           `json:"id"`
	Name      string           `json:"name"`
	State     nimbus.HostState `json:"state"`
	Version   string           `json:"version"`
	JoinedAt  time.Time        `json:"joined_at"`
	SeenAt    time.Time        `json:"seen_at"`
	Arch      string           `json:"arch"`
	CPUs      int              `json:"cpus"`
	MemoryMiB int              `json:"memory_mib"`
	Running   int              `json:"running"`
	Executors []executorView   `json:"executors"`
}

type executorView struct {
	Name      string `json:"name"`
	Available bool   `json:"available"`
	Detail    string `json:"detail,omitempty"`
	Hint      string `json:"hint,omitempty"`
}

func viewHost(h nimbus.Host) hostView {
	v := hostView{
		ID: h.ID, Name: h.Name, State: h.State, Version: h.Version, JoinedAt: h.JoinedAt, SeenAt: h.SeenAt, Arch: h.Inventory.Arch,
		CPUs: h.Inventory.CPUs, MemoryMiB: h.Inventory.MemoryMiB, Running: h.Running, Executors: []executorView{},
	}
	for _, e := range h.Inventory.Executors {
		v.Executors = append(v.Executors, executorView(e))
	}
	return v
}
