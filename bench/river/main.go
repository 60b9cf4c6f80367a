// Command river has riverqueue/river insert, work and complete jobs, for
// bench-dispatch to set beside its own figures. It is a module of its own, so
// that River is no dependency of Nimbus.
//
//	DATABASE_URL=postgres://… bench-river JOBS TURNS
//
// prints the jobs a second of each turn.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

const (
	workers   = 200
	inserters = 64
	maxConns  = 20

	payloadBytes = 1000
)

// job carries as much as a job of Nimbus' does.
type job struct {
	Payload string `json:"payload"`
}

// Kind implements river.JobArgs.
func (job) Kind() string { return "job" }

type worker struct {
	river.WorkerDefaults[job]
}

// Work does nothing: what counts is what it costs to get here.
func (worker) Work(context.Context, *river.Job[job]) error { return nil }

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "bench-river:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	if len(os.Args) != 3 {
		return errors.New("usage: bench-river JOBS TURNS")
	}
	jobs, err1 := strconv.Atoi(os.Args[1])
	turns, err2 := strconv.Atoi(os.Args[2])
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	cfg, err := pgxpool.ParseConfig(os.Getenv("DATABASE_URL"))
	if err != nil {
		return fmt.Errorf("parse DATABASE_URL: %w", err)
	}
	cfg.MaxConns = maxConns
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer pool.Close()
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), nil)
	if err != nil {
		return fmt.Errorf("prepare migrations: %w", err)
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	registered := river.NewWorkers()
	river.AddWorker(registered, worker{})
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		Queues: map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: workers}}, Workers: registered,
		Logger: slog.New(slog.DiscardHandler), FetchCooldown: 10 * time.Millisecond,
	})
	if err != nil {
		return fmt.Errorf("make a client: %w", err)
	}
	if err := client.Start(ctx); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	for range turns {
		began := time.Now()
		if err := insert(ctx, client, jobs); err != nil {
			return err
		}
		if err := await(ctx, pool); err != nil {
			return err
		}
		fmt.Printf("%.1f\n", float64(jobs)/time.Since(began).Seconds())
	}
	return client.Stop(ctx)
}

// insert adds jobs one by one, as webhooks bring them, several at a time.
func insert(ctx context.Context, client *river.Client[pgx.Tx], jobs int) error {
	var loops sync.WaitGroup
	errs := make(chan error, inserters)
	payload := job{Payload: strings.Repeat("x", payloadBytes)}
	for i := range inserters {
		loops.Go(func() {
			for range jobs/inserters + min(1, max(0, jobs%inserters-i)) {
				if _, err := client.Insert(ctx, payload, nil); err != nil {
					errs <- fmt.Errorf("insert: %w", err)
					return
				}
			}
		})
	}
	loops.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

// await waits until all jobs are completed.
func await(ctx context.Context, pool *pgxpool.Pool) error {
	for {
		var open bool
		if err := pool.QueryRow(ctx, "SELECT EXISTS (SELECT FROM river_job WHERE state <> 'completed')").Scan(&open); err != nil {
			return fmt.Errorf("look whether all are completed: %w", err)
		}
		if !open {
			return nil
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
