package httpapi

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/nimbus-ci/nimbus"
)

// putWorkspace stores a working tree (tar.zst) and answers its digest.
func (a *api) putWorkspace(w http.ResponseWriter, r *http.Request) error {
	if r.ContentLength > maxWorkspace {
		return tooLarge()
	}
	id, err := a.Blobs.PutAddressed(r.Context(), workspaces(callerOf(r.Context()).org), http.MaxBytesReader(w, r.Body, maxWorkspace+1), maxWorkspace)
	if nimbus.ErrorCode(err) == nimbus.CodeTooLarge {
		return tooLarge()
	}
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, map[string]string{"id": id})
}

func tooLarge() error {
	return nimbus.Errorf(nimbus.CodeTooLarge, "the workspace is larger than %d MiB, packed", maxWorkspace>>20).
		WithHint("leave out what the job does not need: files that git ignores are not sent")
}

func workspaces(org string) string { return "workspaces/" + org }

// getWorkspace gives a workspace to the host that holds a lease of its org.
func (a *api) getWorkspace(w http.ResponseWriter, r *http.Request) error {
	ctx, query := r.Context(), r.URL.Query()
	fence, err := strconv.ParseInt(query.Get("fence"), 10, 64)
	if err != nil {
		return nimbus.Errorf(nimbus.CodeInvalid, "a workspace is given for a lease: attempt and fence are needed")
	}
	key, err := a.Hosts.LogLease(ctx, callerOf(ctx).Subject, nimbus.Lease{AttemptID: query.Get("attempt"), Fence: fence})
	if err != nil {
		return err
	}
	id := r.PathValue("id")
	if raw, err := hex.DecodeString(id); err != nil || len(raw) != 32 {
		return nimbus.Errorf(nimbus.CodeNotFound, "there is no such workspace")
	}
	body, size, err := a.Blobs.Open(ctx, workspaces(key.OrgID)+"/"+id)
	if err != nil {
		return err
	}
	defer body.Close()
	w.Header().Set("Content-Type", "application/zstd")
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	if _, err := io.Copy(w, body); err != nil && ctx.Err() == nil {
		a.Log.DebugContext(ctx, "send workspace", "error", err) // the host asks again
	}
	return nil
}

func writeJSON(w http.ResponseWriter, status int, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(raw, '\n')) // the caller is gone: nobody to tell
	return nil
}
