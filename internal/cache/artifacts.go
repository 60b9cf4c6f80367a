package cache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Artifact is what a job gave to others of its run: an entry in the run's own
// scope, under its name, that is held until it expires.
type Artifact struct {
	Entry

	SHA256    string // lower-case hex
	MIMEType  string // "" for a ZIP archive
	ExpiresAt time.Time
}

// Bounds of artifacts.
const (
	MaxArtifacts     = 1000 // of a run
	MaxArtifactName  = 256  // bytes
	UsualArtifactFor = 30 * 24 * time.Hour
	MaxArtifactFor   = 90 * 24 * time.Hour
	leastArtifactFor = time.Hour
)

// artifactVersion keeps artifacts and what else a scope might hold apart.
const artifactVersion = "artifact-v4"

// OfRun is a caller that sees the artifacts of a run, and nothing else: no branch
// is called as the scope of a run is.
func (c Caller) OfRun(runID string) Caller {
	c.Write = "artifacts/" + runID
	c.Read = []string{c.Write}
	return c
}

// ReserveArtifact takes a name in a run, for a content of a MIME type, "" for a ZIP
// archive. c is a caller of OfRun. Codes: invalid,
// conflict, too_large, rate_limited.
func (s *Service) ReserveArtifact(ctx context.Context, c Caller, name, mimeType string) (Upload, error) {
	if err := checkArtifactName(name); err != nil {
		return Upload{}, err
	}
	there, err := s.Artifacts(ctx, c)
	if err != nil {
		return Upload{}, err
	}
	if len(there) >= MaxArtifacts {
		return Upload{}, nimbus.Errorf(nimbus.CodeTooLarge, "the run has %d artifacts, which is the most", len(there))
	}
	u, err := s.Reserve(ctx, c, name, artifactVersion, 0)
	if err != nil || mimeType == "" {
		return u, err
	}
	if err := s.store.TypeCache(ctx, u.ID, mimeType); err != nil {
		return Upload{}, fmt.Errorf("note the type of an artifact: %w", err)
	}
	return u, nil
}

// checkArtifactName refuses what GitHub does: names become files on any system.
func checkArtifactName(name string) error {
	if err := checkText("name", name, MaxArtifactName); err != nil {
		return err
	}
	if name == "." || name == ".." {
		return nimbus.Errorf(nimbus.CodeInvalid, "the name %q is a folder's on every system, which no artifact's may be", name)
	}
	if i := strings.IndexAny(name, "\":<>|*?\\/"); i >= 0 {
		return nimbus.Errorf(nimbus.CodeInvalid, "the name %.80q has %q in it, which no artifact's may", name, name[i])
	}
	return nil
}

// FinishArtifact makes what came under a name an artifact, when it has that size and
// hash ("" where the client says none). Twice the same is fine. What has another
// hash is gone after. Codes: invalid, not_found, conflict.
func (s *Service) FinishArtifact(ctx context.Context, c Caller, name string, size int64, sum string, keep time.Duration) (Artifact, error) {
	switch {
	case keep == 0:
		keep = UsualArtifactFor
	case keep < leastArtifactFor:
		keep = leastArtifactFor
	}
	e, err := s.Commit(ctx, c, name, artifactVersion, size)
	if err != nil {
		return Artifact{}, err
	}
	got, err := s.sumOf(ctx, e)
	if err != nil {
		return Artifact{}, err
	}
	if sum != "" && !strings.EqualFold(sum, got) {
		err := nimbus.Errorf(nimbus.CodeInvalid, "what came has the hash %s, and %.100q was announced", got, sum)
		return Artifact{}, errors.Join(err, s.Remove(ctx, e.OrgID, e.ID))
	}
	a, err := s.store.HoldCache(ctx, e.ID, got, min(keep, MaxArtifactFor))
	if err != nil {
		return Artifact{}, fmt.Errorf("keep an artifact: %w", err)
	}
	return a, nil
}

// sumOf reads an entry, and hashes it.
func (s *Service) sumOf(ctx context.Context, e Entry) (string, error) {
	content, err := s.Open(ctx, e, 0, -1)
	if err != nil {
		return "", err
	}
	defer content.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, content); err != nil {
		return "", fmt.Errorf("hash an artifact: %w", err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// Artifacts are those of a run, the newest first.
func (s *Service) Artifacts(ctx context.Context, c Caller) ([]Artifact, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	all, err := s.store.Artifacts(ctx, Place{OrgID: c.OrgID, Repo: c.Repo, Scope: c.Write, Version: artifactVersion}, MaxArtifacts)
	if err != nil {
		return nil, fmt.Errorf("list artifacts: %w", err)
	}
	return all, nil
}

// Artifact is the one of a run with a name. Codes: not_found.
func (s *Service) Artifact(ctx context.Context, c Caller, name string) (Artifact, error) {
	all, err := s.Artifacts(ctx, c)
	for _, a := range all {
		if a.Key == name {
			return a, err
		}
	}
	if err != nil {
		return Artifact{}, err
	}
	return Artifact{}, nimbus.Errorf(nimbus.CodeNotFound, "the run has no artifact %.80q", name)
}

// ArtifactOf is the artifact that an entry is. Codes: not_found.
func (s *Service) ArtifactOf(ctx context.Context, entryID int64) (Artifact, error) {
	a, err := s.store.ArtifactOf(ctx, entryID)
	if err != nil {
		return Artifact{}, fmt.Errorf("read an artifact: %w", err)
	}
	return a, nil
}

// RemoveArtifact removes one of a run. Codes: not_found.
func (s *Service) RemoveArtifact(ctx context.Context, c Caller, name string) (id int64, err error) {
	a, err := s.Artifact(ctx, c, name)
	if err != nil {
		return 0, err
	}
	return a.ID, s.Remove(ctx, a.OrgID, a.ID)
}
