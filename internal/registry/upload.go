package registry

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding"
	"encoding/base32"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Chunk is what one request brings of a blob.
type Chunk struct {
	Body io.Reader
	Size int64 // -1 where that is not known
	Most int64 // that may come, where that is known though Size is not
	At   int64 // where it begins; -1 for where the upload ends
	// Algorithm is that of the digest that the blob will have, as far as the client
	// says so; "" for sha256. Of another one all is read once more at the end.
	Algorithm string
}

// most is how much may come, if not more than some bytes may.
func (c Chunk) most(limit int64) int64 {
	if c.Most > 0 {
		return min(c.Most, limit)
	}
	return limit
}

// NewUpload is the id of an upload to a repository. Nothing is written down until
// bytes come: most blobs come with the next request, whole.
func (s *Service) NewUpload(p Place) string {
	id := rand.Text() + "." + strconv.FormatInt(s.clock.Now().Unix(), 36)
	return id + "." + s.sign(p, id)
}

// macBytes is how much of the signature of an upload's id is kept.
const macBytes = 20

func (s *Service) sign(p Place, id string) string {
	mac := hmac.New(sha256.New, s.key)
	mac.Write([]byte("upload\x00" + p.OrgID + "\x00" + p.Repo + "\x00" + id))
	return base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(mac.Sum(nil)[:macBytes])
}

func noUpload() error {
	return Refuse(BlobUploadUnknown, nimbus.CodeNotFound, "there is no such upload: it has ended, or nothing came for long")
}

// Upload is how far an upload has come. Codes: not_found.
func (s *Service) Upload(ctx context.Context, p Place, id string) (Upload, error) {
	i := strings.LastIndexByte(id, '.')
	if i < 0 || len(id) > 100 || !hmac.Equal([]byte(id[i+1:]), []byte(s.sign(p, id[:i]))) {
		return Upload{}, noUpload()
	}
	u, ended, err := s.store.RegistryUpload(ctx, id)
	if nimbus.ErrorCode(err) == nimbus.CodeNotFound {
		_, begun, _ := strings.Cut(id[:i], ".")
		at, err := strconv.ParseInt(begun, 36, 64)
		if err != nil || s.clock.Now().Sub(time.Unix(at, 0)) > s.limits.Idle {
			return Upload{}, noUpload()
		}
		return Upload{ID: id, Place: p}, nil
	}
	if err != nil {
		return Upload{}, fmt.Errorf("look up an upload: %w", err)
	}
	if ended || u.Place != p {
		return Upload{}, noUpload()
	}
	return u, nil
}

// Append adds bytes to an upload. Codes: not_found, too_large; an OutOfOrderError where
// they do not begin at its end.
func (s *Service) Append(ctx context.Context, p Place, id string, c Chunk) (Upload, error) {
	u, err := s.Upload(ctx, p, id)
	if err != nil {
		return Upload{}, err
	}
	return s.append(ctx, u, c)
}

func (s *Service) append(ctx context.Context, u Upload, c Chunk) (Upload, error) {
	u, _, err := s.appendPart(ctx, u, c)
	return u, err
}

// appendPart is append that tells what was added.
func (s *Service) appendPart(ctx context.Context, u Upload, c Chunk) (Upload, Segment, error) {
	if c.At >= 0 && c.At != u.Size {
		return u, Segment{}, &OutOfOrderError{u.Size}
	}
	if u.Segments >= MaxSegments {
		return u, Segment{}, Refuse(BlobUploadInvalid, nimbus.CodeTooLarge, "the blob came in %d requests, which is the most", u.Segments)
	}
	body, empty, err := begun(c)
	if err != nil || empty {
		return u, Segment{}, err
	}
	if u.Algorithm == "" {
		u.Algorithm = c.Algorithm
		if !KnownAlgorithm(u.Algorithm) {
			u.Algorithm = SHA256
		}
	}
	sum, err := resumed(u)
	if err != nil {
		return u, Segment{}, err
	}
	path, n, err := s.take(ctx, u.Place, body, c.Size, c.most(s.limits.Blob-u.Size), sum)
	if err != nil {
		return u, Segment{}, err
	}
	seg := Segment{N: u.Segments, Offset: u.Size, Size: n, Path: path}
	u.Size, u.Segments = u.Size+n, u.Segments+1
	if u.Sum, err = stateOf(sum); err != nil {
		return u, Segment{}, err
	}
	err = s.store.GrowRegistryUpload(ctx, u, seg, s.limits.of(u.OrgID))
	s.untake(ctx, u.OrgID, path, err)
	if nimbus.ErrorCode(err) == nimbus.CodeConflict { // two at once
		now, again := s.Upload(ctx, u.Place, u.ID)
		if again != nil {
			return u, Segment{}, again
		}
		return now, Segment{}, &OutOfOrderError{now.Size}
	}
	if err != nil {
		return u, Segment{}, fmt.Errorf("write down what has come of a blob: %w", err)
	}
	return u, seg, nil
}

// begun looks whether anything comes at all, where nobody has said.
func begun(c Chunk) (body io.Reader, empty bool, err error) {
	if c.Size >= 0 || c.Body == nil {
		return c.Body, c.Size <= 0, nil
	}
	first := make([]byte, 1)
	if _, err := io.ReadFull(c.Body, first); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, true, nil
		}
		return nil, false, fmt.Errorf("read a blob: %w", err)
	}
	return io.MultiReader(strings.NewReader(string(first)), c.Body), false, nil
}

// resumed is the hash of what has come of an upload.
func resumed(u Upload) (hash.Hash, error) {
	h, ok := newHash(u.Algorithm)
	if !ok {
		return nil, nimbus.Errorf(nimbus.CodeInternal, "an upload is hashed by %q", u.Algorithm)
	}
	if u.Segments == 0 {
		return h, nil
	}
	state, ok := h.(encoding.BinaryUnmarshaler)
	if !ok {
		return nil, nimbus.Errorf(nimbus.CodeInternal, "the hash %s can't be resumed", u.Algorithm)
	}
	if err := state.UnmarshalBinary(u.Sum); err != nil {
		return nil, fmt.Errorf("resume a hash: %w", err)
	}
	return h, nil
}

func stateOf(h hash.Hash) ([]byte, error) {
	m, ok := h.(encoding.BinaryMarshaler)
	if !ok {
		return nil, nimbus.Errorf(nimbus.CodeInternal, "the state of a hash can't be kept")
	}
	state, err := m.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("keep the state of a hash: %w", err)
	}
	return state, nil
}

// Finish adds the last bytes, if any, and makes a blob of the upload if it has
// that digest. Codes: invalid, not_found, too_large.
func (s *Service) Finish(ctx context.Context, p Place, id string, c Chunk, digest Digest) error {
	u, err := s.Upload(ctx, p, id)
	if err != nil {
		return err
	}
	if u.Segments == 0 {
		if c.At > 0 {
			return &OutOfOrderError{0}
		}
		return s.PutBlob(ctx, p, c, digest)
	}
	c.Algorithm = digest.Algorithm()
	if u, err = s.append(ctx, u, c); err != nil {
		return err
	}
	got, err := s.sumUp(ctx, u, digest.Algorithm())
	if err != nil {
		return err
	}
	if got != digest {
		// It can't become what its client wants.
		return errors.Join(notThatDigest(digest, got), s.after(ctx, func(ctx context.Context) error { return s.store.EndRegistryUpload(ctx, u) }))
	}
	if err := s.store.CommitRegistryUpload(ctx, u, digest); err != nil {
		return fmt.Errorf("make a blob of an upload: %w", err)
	}
	return nil
}

func notThatDigest(want, got Digest) error {
	return Refuse(DigestInvalid, nimbus.CodeInvalid, "the blob was announced as %s, and what came is %s", want, got)
}

// sumUp is the digest of an upload: the hash of what came, or, where its client
// had not said of which algorithm it has to be, of what is read once more.
func (s *Service) sumUp(ctx context.Context, u Upload, algorithm string) (Digest, error) {
	if u.Algorithm == algorithm {
		h, err := resumed(u)
		if err != nil {
			return "", err
		}
		return digestOf(algorithm, h), nil
	}
	h, ok := newHash(algorithm)
	if !ok {
		return "", Refuse(DigestInvalid, nimbus.CodeInvalid, "%.20q is no algorithm of digests", algorithm)
	}
	c, err := s.open(ctx, u.OrgID, Blob{Size: u.Size, Content: u.ID}, 0, u.Size)
	if err != nil {
		return "", fmt.Errorf("read an upload once more: %w", err)
	}
	n, err := io.Copy(h, struct{ io.Reader }{c})
	if err = errors.Join(err, errShort(n, u.Size), c.Close()); err != nil {
		return "", fmt.Errorf("read an upload once more: %w", err)
	}
	return digestOf(algorithm, h), nil
}

func errShort(n, want int64) error {
	if n == want {
		return nil
	}
	return io.ErrUnexpectedEOF
}

// PutBlob stores a blob that comes in one request, if it has that digest. Codes:
// invalid, too_large.
func (s *Service) PutBlob(ctx context.Context, p Place, c Chunk, digest Digest) error {
	h, ok := newHash(digest.Algorithm())
	if !ok {
		return Refuse(DigestInvalid, nimbus.CodeInvalid, "%.100q is no digest", digest)
	}
	body := c.Body
	if body == nil {
		body = strings.NewReader("")
	}
	path, n, err := s.take(ctx, p, body, c.Size, s.limits.Blob, h)
	if err != nil {
		return err
	}
	if got := digestOf(digest.Algorithm(), h); got != digest {
		err := notThatDigest(digest, got)
		s.untake(ctx, p.OrgID, path, err)
		return err
	}
	generation := s.known.current()
	b := Blob{Digest: digest, Size: n, Path: path, UsedAt: s.clock.Now()}
	kept, err := s.store.PutRegistryBlob(ctx, p, b, s.limits.of(p.OrgID))
	s.untake(ctx, p.OrgID, path, err)
	if err != nil {
		return fmt.Errorf("write down a blob: %w", err)
	}
	if !kept {
		s.drop(ctx, p.OrgID, path)
		return nil
	}
	s.known.addBlob(named{p, digest}, b, generation) // what is pushed is soon pulled
	return nil
}

// Cancel gives an upload up. Codes: not_found.
func (s *Service) Cancel(ctx context.Context, p Place, id string) error {
	u, err := s.Upload(ctx, p, id)
	if err != nil {
		return err
	}
	if err := s.store.EndRegistryUpload(ctx, u); err != nil {
		return fmt.Errorf("give an upload up: %w", err)
	}
	return nil
}

// take stores what comes under a new name, hashed on the way.
func (s *Service) take(ctx context.Context, p Place, body io.Reader, size, most int64, sum hash.Hash) (path string, n int64, err error) {
	switch {
	case size > most:
		return "", 0, Refuse(BlobUploadInvalid, nimbus.CodeTooLarge, "a blob of more than %d bytes is too large", s.limits.Blob)
	case size >= 0:
		most = size
	}
	in := &intake{ctx: ctx, service: s, org: p.OrgID, from: body, size: size, most: most, sum: sum}
	defer in.close()
	if err := in.claim(); err != nil {
		return "", 0, err
	}
	path = strings.ToLower(rand.Text())
	info, err := s.blobs.Put(ctx, key(p.OrgID, path), in, most)
	if in.err != nil {
		err = in.err
	}
	if err == nil && size >= 0 && info.Size != size {
		err = Refuse(SizeInvalid, nimbus.CodeInvalid, "%d bytes came, and %d were announced", info.Size, size)
	}
	if err != nil {
		s.drop(ctx, p.OrgID, path)
		return "", 0, fmt.Errorf("store a blob: %w", err)
	}
	return path, info.Size, nil
}

// untake removes content that could not be written down. Where only the answer may
// be lost it stays, and goes as an orphan if nothing names it.
func (s *Service) untake(ctx context.Context, orgID, path string, err error) {
	switch nimbus.ErrorCode(err) {
	case nimbus.CodeInvalid, nimbus.CodeNotFound, nimbus.CodeConflict, nimbus.CodeTooLarge, nimbus.CodeRateLimited:
		s.drop(ctx, orgID, path)
	}
}

// drop removes content that nobody needs. One that can't be removed now is removed
// as an orphan.
func (s *Service) drop(ctx context.Context, orgID, path string) {
	err := s.after(ctx, func(ctx context.Context) error { return s.blobs.Delete(ctx, key(orgID, path)) })
	if err != nil {
		s.log.WarnContext(ctx, "content that is not needed could not be removed from the registry, the sweep does it later", "error", err)
	}
}

// root is where all contents of registries are.
const root = "registry/"

// key is where a content is. Nothing of it is the client's.
func key(orgID, path string) string { return root + orgID + "/" + path }
