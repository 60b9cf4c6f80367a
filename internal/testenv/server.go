package testenv

import (
	"context"
	"errors"
	"fmt"
)

// Server is a PostgreSQL of a program that is no test, as a bench is. It
// listens on a unix socket alone and ends with the process at the latest.
type Server struct{ own *postgresServer }

// StartPostgres starts a fresh server as it comes, durable, but for settings:
// lines of postgresql.conf.
func StartPostgres(settings string) (*Server, error) {
	own, err := startPostgres(settings)
	if err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	return &Server{own}, nil
}

// Create makes a database and returns its URL. template is the one to copy,
// which nobody may be connected to, or "" for an empty one.
func (s *Server) Create(ctx context.Context, name, template string) (string, error) {
	if template == "" {
		template = "template0"
	}
	return s.own.dsn(name), s.own.exec(ctx, "CREATE DATABASE "+name+" TEMPLATE "+template+" STRATEGY FILE_COPY")
}

// Drop removes a database, whoever is connected to it.
func (s *Server) Drop(name string) error { return s.own.dropDatabase(name) }

// Pid is the server's first process.
func (s *Server) Pid() int { return s.own.process.Process.Pid }

// Close ends the server and removes what it kept.
func (s *Server) Close() error {
	if err := errors.Join(s.own.alive.Close(), s.own.process.Wait()); err != nil {
		return fmt.Errorf("stop PostgreSQL: %w", err)
	}
	return nil
}
