package client

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// receiveWait is how long one call waits for output.
const receiveWait = 15 * time.Second

// ShellOutput is a piece of what a shell wrote.
type ShellOutput struct {
	Stream nimbus.Stream
	Data   []byte
}

// ShellInput is one thing for a shell; one field is set.
type ShellInput struct {
	Data   []byte // at most 32 KiB
	End    bool   // there is no more input
	Window nimbus.Window
	Signal string // "SIGINT", "SIGTERM", "SIGHUP" or "SIGQUIT", without a terminal
}

// ShellNews is what came of a shell.
type ShellNews struct {
	Output []ShellOutput
	Seq    int64            // to ask for what follows
	End    *nimbus.ShellEnd // nothing follows
}

// OpenShell opens a shell in the sandbox of a job. Codes: conflict for a job
// that has none now, unsupported, forbidden, rate_limited.
func (c *Client) OpenShell(ctx context.Context, jobID string, spec nimbus.ShellSpec, validFor time.Duration) (nimbus.Shell, error) {
	answer, err := call(ctx, c.shells.OpenShell, &nimbusv1.OpenShellRequest{JobId: jobID, Spec: wire.ShellSpec(spec), ValidFor: durationpb.New(validFor)})
	return wire.ToShell(answer.GetShell()), err
}

// SendShell sends a batch, at most 256 KiB, which are numbered from 1. The same
// batch may be sent again. Codes: conflict for a shell that has ended,
// rate_limited while it takes nothing.
func (c *Client) SendShell(ctx context.Context, shellID string, seq int64, batch []ShellInput) error {
	request := &nimbusv1.SendShellRequest{ShellId: shellID, Seq: seq}
	for _, in := range batch {
		f := &nimbusv1.ShellFrame{}
		switch {
		case in.End:
			f.Frame = &nimbusv1.ShellFrame_InputEnd{InputEnd: true}
		case in.Signal != "":
			f.Frame = &nimbusv1.ShellFrame_Signal{Signal: in.Signal}
		case in.Window != nimbus.Window{}:
			f.Frame = &nimbusv1.ShellFrame_Size{Size: wire.Window(in.Window)}
		default:
			f.Frame = &nimbusv1.ShellFrame_Input{Input: in.Data}
		}
		request.Frames = append(request.Frames, f)
	}
	_, err := call(ctx, c.shells.SendShell, request)
	return err
}

// ReceiveShell waits a while for what comes after the news with a number; 0 is
// from the beginning.
func (c *Client) ReceiveShell(ctx context.Context, shellID string, after int64) (ShellNews, error) {
	answer, err := call(ctx, c.shells.ReceiveShell, &nimbusv1.ReceiveShellRequest{ShellId: shellID, After: after, Wait: durationpb.New(receiveWait)})
	news := ShellNews{Seq: max(after, answer.GetSeq()), End: wire.ToShellEnd(answer.GetEnd())}
	for _, f := range answer.GetFrames() {
		if out := f.GetOutput(); out != nil {
			news.Output = append(news.Output, ShellOutput{Stream: nimbus.Stream(out.GetStream()), Data: out.GetData()})
		}
	}
	return news, err
}

// CloseShell ends a shell.
func (c *Client) CloseShell(ctx context.Context, shellID string) error {
	_, err := call(ctx, c.shells.CloseShell, &nimbusv1.CloseShellRequest{ShellId: shellID})
	return err
}

// Shells are those that were opened in a job, newest first. Codes: not_found.
func (c *Client) Shells(ctx context.Context, jobID string) ([]nimbus.Shell, error) {
	answer, err := call(ctx, c.shells.ListShells, &nimbusv1.ListShellsRequest{JobId: jobID})
	var list []nimbus.Shell
	for _, s := range answer.GetShells() {
		list = append(list, wire.ToShell(s))
	}
	return list, err
}

// Recording writes the recording of a shell, an asciicast of version 2. Codes:
// not_found.
func (c *Client) Recording(ctx context.Context, jobID, shellID string, to io.Writer) error {
	resp, err := c.do(ctx, http.MethodGet, "/api/v1/jobs/"+url.PathEscape(jobID)+"/shells/"+url.PathEscape(shellID)+"/recording", nil, nil, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(to, resp.Body); err != nil {
		return unreachable(ctx, err)
	}
	return nil
}

// Release gives up the sandbox of a job that is held after its failure. Of one
// that is not it has no effect. Codes: not_found.
func (c *Client) Release(ctx context.Context, jobID string) (nimbus.Job, error) {
	answer, err := call(ctx, c.jobs.ReleaseJob, &nimbusv1.ReleaseJobRequest{JobId: jobID})
	return wire.ToJob(answer.GetJob()), err
}
