package server

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob"
	"github.com/nimbus-ci/nimbus/internal/blob/breaker"
	"github.com/nimbus-ci/nimbus/internal/blob/limit"
	"github.com/nimbus-ci/nimbus/internal/blob/meter"
	"github.com/nimbus-ci/nimbus/internal/blob/retry"
	"github.com/nimbus-ci/nimbus/internal/blob/s3"
	"github.com/nimbus-ci/nimbus/internal/httpapi"
)

// firstLook is how long a start waits for a word of the object store.
const firstLook = 5 * time.Second

// openBlobs opens where a replica keeps uploaded files, and returns what has to be
// swept there: the database, or a bucket. A replica that has a bucket still reads
// what is in the database from before.
func (s *Server) openBlobs(ctx context.Context, bucket *s3.Config) ([]blob.Sweeper, error) {
	database := s.store.Blobs()
	if bucket == nil {
		s.blobs = database
		return []blob.Sweeper{database}, nil
	}
	place, err := s3.Open(*bucket)
	if err != nil {
		return nil, fmt.Errorf("open the object store: %w", err)
	}
	s.closers = append(s.closers, place.Close)
	s.objects = guarded(place, s.metrics, s.cfg.Log)
	s.blobs, s.saved, s.images = moved{Blobs: s.objects, before: database}, s.objects, s.objects
	// It may be away like any other time, and is told as that. But settings that
	// can't be right show here.
	look, cancel := context.WithTimeout(ctx, firstLook)
	defer cancel()
	if err := place.Ping(look); err != nil {
		s.cfg.Log.WarnContext(ctx, "the object store can't be used now", "error", err, "hint", nimbus.ErrorHint(err))
	}
	return []blob.Sweeper{database, place}, nil
}

// guarded puts in front of a bucket what makes its failures short. From the inside:
// each try is counted, and has its place among those at once; calls are tried
// again; and none is while all of that has failed in a row.
func guarded(place *s3.Store, heard meter.Observer, log *slog.Logger) *breaker.Store {
	counted := meter.New(place, heard)
	bounded := limit.New(counted, limit.Config{})
	repeated := retry.New(bounded, retry.Policy{})
	return breaker.New(repeated, breaker.Config{Probe: place.Ping, Log: log})
}

// moved is a place for files that were in another one before.
type moved struct {
	httpapi.Blobs

	before httpapi.Blobs
}

// Open implements httpapi.Blobs.
func (m moved) Open(ctx context.Context, key string) (io.ReadCloser, int64, error) {
	r, size, err := m.Blobs.Open(ctx, key)
	if nimbus.ErrorCode(err) == nimbus.CodeNotFound {
		return m.before.Open(ctx, key)
	}
	return r, size, err
}
