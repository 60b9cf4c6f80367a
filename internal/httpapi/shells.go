package httpapi

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/logs"
	"github.com/nimbus-ci/nimbus/internal/shells"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// Shells carries terminals between who opens them and the sandboxes of jobs.
type Shells interface {
	Open(ctx context.Context, p nimbus.Principal, orgID, jobID, from string, spec nimbus.ShellSpec, validFor time.Duration) (nimbus.Shell, error)
	Send(ctx context.Context, p nimbus.Principal, orgID, shellID string, seq int64, body []byte) error
	Receive(ctx context.Context, p nimbus.Principal, orgID, shellID string, after int64, wait time.Duration) (shells.Received, error)
	Close(ctx context.Context, p nimbus.Principal, orgID, shellID string) error
	List(ctx context.Context, orgID, jobID string) ([]nimbus.Shell, error)
	Recorded(ctx context.Context, orgID, jobID, shellID string) (nimbus.Shell, error)

	Attach(ctx context.Context, hostID string, l nimbus.Lease, shellID string) (nimbus.ShellSpec, error)
	SendOutput(ctx context.Context, hostID string, l nimbus.Lease, shellID string, o shells.Output) error
	ReceiveInput(ctx context.Context, hostID string, l nimbus.Lease, shellID string, after int64, wait time.Duration) (shells.Received, error)
	HostStarted(ctx context.Context, hostID string) error
}

// shellService implements nimbusv1connect.ShellServiceHandler.
type shellService struct{ api *api }

func (s shellService) OpenShell(ctx context.Context, r *connect.Request[nimbusv1.OpenShellRequest]) (*connect.Response[nimbusv1.OpenShellResponse], error) {
	c := callerOf(ctx)
	sh, err := s.api.Shells.Open(ctx, c.Principal, c.org, r.Msg.GetJobId(), c.from, wire.ToShellSpec(r.Msg.GetSpec()), r.Msg.GetValidFor().AsDuration())
	return reply(&nimbusv1.OpenShellResponse{Shell: wire.Shell(sh)}, err)
}

func (s shellService) SendShell(ctx context.Context, r *connect.Request[nimbusv1.SendShellRequest]) (*connect.Response[nimbusv1.SendShellResponse], error) {
	c := callerOf(ctx)
	body, err := wire.ShellBatch(r.Msg.GetFrames(), true)
	if err != nil {
		return nil, err
	}
	return reply(&nimbusv1.SendShellResponse{}, s.api.Shells.Send(ctx, c.Principal, c.org, r.Msg.GetShellId(), r.Msg.GetSeq(), body))
}

func (s shellService) ReceiveShell(ctx context.Context, r *connect.Request[nimbusv1.ReceiveShellRequest]) (*connect.Response[nimbusv1.ReceiveShellResponse], error) {
	c := callerOf(ctx)
	got, err := s.api.Shells.Receive(ctx, c.Principal, c.org, r.Msg.GetShellId(), r.Msg.GetAfter(), r.Msg.GetWait().AsDuration())
	if err != nil {
		return nil, err
	}
	frames, err := wire.ToShellFrames(got.Bodies)
	return reply(&nimbusv1.ReceiveShellResponse{Frames: frames, Seq: got.Seq, End: wire.ShellEnd(got.End)}, err)
}

func (s shellService) CloseShell(ctx context.Context, r *connect.Request[nimbusv1.CloseShellRequest]) (*connect.Response[nimbusv1.CloseShellResponse], error) {
	c := callerOf(ctx)
	return reply(&nimbusv1.CloseShellResponse{}, s.api.Shells.Close(ctx, c.Principal, c.org, r.Msg.GetShellId()))
}

func (s shellService) ListShells(ctx context.Context, r *connect.Request[nimbusv1.ListShellsRequest]) (*connect.Response[nimbusv1.ListShellsResponse], error) {
	org := callerOf(ctx).org
	if _, err := s.api.Jobs.Job(ctx, org, r.Msg.GetJobId()); err != nil {
		return nil, err
	}
	list, err := s.api.Shells.List(ctx, org, r.Msg.GetJobId())
	return reply(&nimbusv1.ListShellsResponse{Shells: messages(list, wire.Shell)}, err)
}

func (s agentService) AttachShell(ctx context.Context, r *connect.Request[nimbusv1.AttachShellRequest]) (*connect.Response[nimbusv1.AttachShellResponse], error) {
	spec, err := s.api.Shells.Attach(ctx, callerOf(ctx).Subject, wire.ToLease(r.Msg.GetLease()), r.Msg.GetShellId())
	return reply(&nimbusv1.AttachShellResponse{Spec: wire.ShellSpec(spec)}, err)
}

func (s agentService) SendShellOutput(ctx context.Context, r *connect.Request[nimbusv1.SendShellOutputRequest]) (*connect.Response[nimbusv1.SendShellOutputResponse], error) {
	o := shells.Output{Seq: r.Msg.GetSeq(), End: wire.ToShellEnd(r.Msg.GetEnd())}
	for _, l := range r.Msg.GetRecorded() {
		line := wire.ToLine(l)
		if err := checkLine(line); err != nil {
			return nil, err
		}
		o.Recorded = append(o.Recorded, line)
	}
	if len(r.Msg.GetFrames()) > 0 {
		var err error
		if o.Body, err = wire.ShellBatch(r.Msg.GetFrames(), false); err != nil {
			return nil, err
		}
	}
	return reply(&nimbusv1.SendShellOutputResponse{}, s.api.Shells.SendOutput(ctx, callerOf(ctx).Subject, wire.ToLease(r.Msg.GetLease()), r.Msg.GetShellId(), o))
}

func (s agentService) ReceiveShellInput(ctx context.Context, r *connect.Request[nimbusv1.ReceiveShellInputRequest]) (*connect.Response[nimbusv1.ReceiveShellInputResponse], error) {
	got, err := s.api.Shells.ReceiveInput(ctx, callerOf(ctx).Subject, wire.ToLease(r.Msg.GetLease()), r.Msg.GetShellId(), r.Msg.GetAfter(), r.Msg.GetWait().AsDuration())
	if err != nil {
		return nil, err
	}
	frames, err := wire.ToShellFrames(got.Bodies)
	return reply(&nimbusv1.ReceiveShellInputResponse{Frames: frames, Seq: got.Seq, End: wire.ShellEnd(got.End)}, err)
}

// readRecording answers what was recorded of a shell as an asciicast, version 2:
// https://docs.asciinema.org/manual/asciicast/v2/
func (a *api) readRecording(w http.ResponseWriter, r *http.Request) error {
	ctx, org := r.Context(), callerOf(r.Context()).org
	j, err := a.Jobs.Job(ctx, org, r.PathValue("id"))
	if err != nil {
		return err
	}
	sh, err := a.Shells.Recorded(ctx, org, j.ID, r.PathValue("shell"))
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/x-asciicast")
	w.Header().Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", sh.ID+".cast"))
	rc := http.NewResponseController(w)
	for from := int64(1); ; {
		page, damaged, err := logs.ReadOn(ctx, a.Logs, sh.RecordingKey(), from, downloadPage)
		if damaged != nil { // a recording has no place to say so: it goes on with what there is
			a.tellDamage(ctx, sh.ID, damaged)
			from = damaged.Last + 1
			continue
		}
		if err != nil || len(page) == 0 {
			return err
		}
		if err := rc.SetWriteDeadline(time.Now().Add(slowReader)); err != nil {
			return fmt.Errorf("bound the reader's time: %w", err)
		}
		for _, l := range page {
			if _, err := io.WriteString(w, l.Text+"\n"); err != nil {
				return nil //nolint:nilerr // the reader is gone: nobody to tell
			}
		}
		from = page[len(page)-1].Seq + 1
	}
}
