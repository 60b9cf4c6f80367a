package actions

import (
	"context"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/nimbus-ci/nimbus"
	resultsv1 "github.com/nimbus-ci/nimbus/api/gen/results/v1"
	"github.com/nimbus-ci/nimbus/internal/cache"
)

// Artifacts is what is asked of what keeps artifacts: *cache.Service, whose methods
// say what they promise. Callers are those of a run.
type Artifacts interface {
	ReserveArtifact(ctx context.Context, c cache.Caller, name, mimeType string) (cache.Upload, error)
	FinishArtifact(ctx context.Context, c cache.Caller, name string, size int64, sum string, keep time.Duration) (cache.Artifact, error)
	Artifacts(ctx context.Context, c cache.Caller) ([]cache.Artifact, error)
	Artifact(ctx context.Context, c cache.Caller, name string) (cache.Artifact, error)
	ArtifactOf(ctx context.Context, entryID int64) (cache.Artifact, error)
	RemoveArtifact(ctx context.Context, c cache.Caller, name string) (id int64, err error)
}

const (
	artifactsPath = "/twirp/github.actions.results.api.v1.ArtifactService/"
	artifactPath  = "/_cache/artifacts/"
)

// serveArtifacts adds the artifact service, version 4.
func (h *handler) serveArtifacts(mux *http.ServeMux) {
	if h.Artifacts != nil {
		mux.Handle("POST "+artifactsPath+"CreateArtifact", twirp(h, createArtifact))
		mux.Handle("POST "+artifactsPath+"FinalizeArtifact", twirp(h, finalizeArtifact))
		mux.Handle("POST "+artifactsPath+"ListArtifacts", twirp(h, listArtifacts))
		mux.Handle("POST "+artifactsPath+"GetSignedArtifactURL", twirp(h, artifactURL))
		mux.Handle("POST "+artifactsPath+"DeleteArtifact", twirp(h, deleteArtifact))
		mux.Handle("GET "+artifactPath+"{id}", h.blob(h.getArtifact)) // and HEAD
	}
	mux.Handle(artifactsPath, h.refuse(writeTwirpError))
	mux.Handle(artifactPath, h.refuse(writeBlobError))
}

// ofRun is the caller's run, which its token names: what a request says of it has
// to be the same.
func (g Grant) ofRun(run, job string) (cache.Caller, error) {
	if g.RunID == "" {
		return cache.Caller{}, nimbus.Errorf(nimbus.CodeForbidden, "this job has no artifacts")
	}
	if run != g.RunID {
		return cache.Caller{}, nimbus.Errorf(nimbus.CodeNotFound, "there is no such run for this job")
	}
	if job == "" {
		return cache.Caller{}, nimbus.Errorf(nimbus.CodeInvalid, "the request names no job")
	}
	return g.Caller.OfRun(g.RunID), nil
}

func createArtifact(h *handler, _ http.Header, r *http.Request, g Grant, q *resultsv1.CreateArtifactRequest) (*resultsv1.CreateArtifactResponse, error) {
	c, err := g.ofRun(q.GetWorkflowRunBackendId(), q.GetWorkflowJobRunBackendId())
	if err != nil {
		return nil, err
	}
	mimeType, err := typeOf(q.GetMimeType().GetValue())
	if err != nil {
		return nil, err
	}
	upload, err := h.Artifacts.ReserveArtifact(r.Context(), c, q.GetName(), mimeType)
	if err != nil {
		return nil, fmt.Errorf("begin an artifact: %w", err)
	}
	signed, err := h.sign(r, g, toPut, upload.ID)
	if err != nil {
		return nil, err
	}
	return &resultsv1.CreateArtifactResponse{Ok: true, SignedUploadUrl: signed}, nil
}

func finalizeArtifact(h *handler, _ http.Header, r *http.Request, g Grant, q *resultsv1.FinalizeArtifactRequest) (*resultsv1.FinalizeArtifactResponse, error) {
	c, err := g.ofRun(q.GetWorkflowRunBackendId(), q.GetWorkflowJobRunBackendId())
	if err != nil {
		return nil, err
	}
	sum, ok := strings.CutPrefix(q.GetHash().GetValue(), "sha256:")
	if !ok && sum != "" {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "the hash %.100q is not of SHA-256", sum)
	}
	a, err := h.Artifacts.FinishArtifact(r.Context(), c, q.GetName(), q.GetSize(), sum, 0)
	if err != nil {
		return nil, fmt.Errorf("finish an artifact: %w", err)
	}
	return &resultsv1.FinalizeArtifactResponse{Ok: true, ArtifactId: a.ID}, nil
}

func listArtifacts(h *handler, _ http.Header, r *http.Request, g Grant, q *resultsv1.ListArtifactsRequest) (*resultsv1.ListArtifactsResponse, error) {
	c, err := g.ofRun(q.GetWorkflowRunBackendId(), q.GetWorkflowJobRunBackendId())
	if err != nil {
		return nil, err
	}
	all, err := h.Artifacts.Artifacts(r.Context(), c)
	if err != nil {
		return nil, fmt.Errorf("list artifacts: %w", err)
	}
	out := &resultsv1.ListArtifactsResponse{}
	for _, a := range all {
		if q.GetNameFilter() != nil && q.GetNameFilter().GetValue() != a.Key || q.GetIdFilter() != nil && q.GetIdFilter().GetValue() != a.ID {
			continue
		}
		out.Artifacts = append(out.Artifacts, &resultsv1.MonolithArtifact{
			WorkflowRunBackendId: g.RunID, WorkflowJobRunBackendId: q.GetWorkflowJobRunBackendId(), DatabaseId: a.ID, Name: a.Key, Size: a.Size,
			CreatedAt: timestamppb.New(a.CreatedAt), Digest: wrapperspb.String("sha256:" + a.SHA256),
		})
	}
	return out, nil
}

func artifactURL(h *handler, _ http.Header, r *http.Request, g Grant, q *resultsv1.GetSignedArtifactURLRequest) (*resultsv1.GetSignedArtifactURLResponse, error) {
	c, err := g.ofRun(q.GetWorkflowRunBackendId(), q.GetWorkflowJobRunBackendId())
	if err != nil {
		return nil, err
	}
	a, err := h.Artifacts.Artifact(r.Context(), c, q.GetName())
	if err != nil {
		return nil, fmt.Errorf("look up an artifact: %w", err)
	}
	signed, err := h.sign(r, g, toFetch, a.ID)
	if err != nil {
		return nil, err
	}
	return &resultsv1.GetSignedArtifactURLResponse{SignedUrl: signed}, nil
}

func deleteArtifact(h *handler, _ http.Header, r *http.Request, g Grant, q *resultsv1.DeleteArtifactRequest) (*resultsv1.DeleteArtifactResponse, error) {
	c, err := g.ofRun(q.GetWorkflowRunBackendId(), q.GetWorkflowJobRunBackendId())
	if err != nil {
		return nil, err
	}
	id, err := h.Artifacts.RemoveArtifact(r.Context(), c, q.GetName())
	if err != nil {
		return nil, fmt.Errorf("remove an artifact: %w", err)
	}
	return &resultsv1.DeleteArtifactResponse{Ok: true, ArtifactId: id}, nil
}

const zipType = "application/zip"

// typeOf is the MIME type of an artifact as it is kept: "" for the usual one.
func typeOf(said string) (string, error) {
	if said == "" || said == zipType {
		return "", nil
	}
	mediaType, _, err := mime.ParseMediaType(said)
	if err != nil || len(said) > maxType {
		return "", nimbus.Errorf(nimbus.CodeInvalid, "%.100q is no MIME type", said)
	}
	return mediaType, nil
}

const maxType = 200 // bytes

// getArtifact sends an artifact, under its name.
func (h *handler) getArtifact(w http.ResponseWriter, r *http.Request, query url.Values) error {
	s, err := h.verify(r, query, toFetch)
	if err != nil {
		return err
	}
	a, err := h.Artifacts.ArtifactOf(r.Context(), s.id)
	if err != nil {
		return fmt.Errorf("look up an artifact: %w", err)
	}
	if a.OrgID != s.org {
		return nimbus.Errorf(nimbus.CodeNotFound, "there is no such artifact")
	}
	// Clients unpack a ZIP archive, which they know by its type; else they go by the
	// name.
	contentType, name := a.MIMEType, a.Key
	if contentType == "" {
		contentType, name = zipType, a.Key+".zip"
	}
	header := w.Header()
	header.Set("Content-Type", contentType)
	header.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": name}))
	return h.send(w, r, a.Entry)
}
