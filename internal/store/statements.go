package store

import (
	"context"
	"database/sql/driver"
	"fmt"
)

// sqliteConn is what a connection of the SQLite driver can do.
type sqliteConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

// sqliteStmt is what one of its statements can do.
type sqliteStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// keptStatements bounds how many compiled statements a connection keeps. The
// program has fewer texts; past it they are compiled each time.
const keptStatements = 500

// compiledConn keeps the statements of a connection compiled: for SQLite,
// compiling one costs several times what running it does. (pgx does the same
// by itself for PostgreSQL.) database/sql uses a connection from one goroutine
// at a time.
type compiledConn struct {
	sqliteConn
	idle map[string]sqliteStmt // by text; one that is in use is not here
}

func newCompiledConn(c driver.Conn) (driver.Conn, error) {
	conn, ok := c.(sqliteConn)
	if !ok {
		return nil, fmt.Errorf("a connection of type %T can't be used", c)
	}
	return &compiledConn{sqliteConn: conn, idle: map[string]sqliteStmt{}}, nil
}

// take returns the compiled statement of a text, which give takes back. It is
// nil for what has arguments of its own, or is a script of several statements.
func (c *compiledConn) take(ctx context.Context, text string, args []driver.NamedValue) sqliteStmt {
	if s := c.idle[text]; s != nil {
		delete(c.idle, text)
		return s
	}
	if len(args) == 0 { // migrations and pragmas, which may be scripts
		return nil
	}
	prepared, err := c.PrepareContext(ctx, text)
	if err != nil {
		return nil // run as it is, it tells what is wrong with it
	}
	s, ok := prepared.(sqliteStmt)
	if !ok {
		_ = prepared.Close()
		return nil
	}
	return s
}

func (c *compiledConn) give(text string, s sqliteStmt) error {
	if len(c.idle) >= keptStatements || c.idle[text] != nil {
		return s.Close()
	}
	c.idle[text] = s
	return nil
}

// ExecContext implements driver.ExecerContext.
func (c *compiledConn) ExecContext(ctx context.Context, text string, args []driver.NamedValue) (driver.Result, error) {
	s := c.take(ctx, text, args)
	if s == nil {
		return c.sqliteConn.ExecContext(ctx, text, args)
	}
	result, err := s.ExecContext(ctx, args)
	if err != nil {
		_ = s.Close() // the statement's own error is the one to tell
		return nil, err
	}
	return result, c.give(text, s)
}

// QueryContext implements driver.QueryerContext.
func (c *compiledConn) QueryContext(ctx context.Context, text string, args []driver.NamedValue) (driver.Rows, error) {
	s := c.take(ctx, text, args)
	if s == nil {
		return c.sqliteConn.QueryContext(ctx, text, args)
	}
	rows, err := s.QueryContext(ctx, args)
	if err != nil {
		_ = s.Close()
		return nil, err
	}
	return &compiledRows{Rows: rows, done: func() error { return c.give(text, s) }}, nil
}

// Close implements driver.Conn.
func (c *compiledConn) Close() error {
	for text, s := range c.idle {
		delete(c.idle, text)
		_ = s.Close()
	}
	return c.sqliteConn.Close()
}

// compiledRows gives its statement back when it is closed.
type compiledRows struct {
	driver.Rows
	done func() error
}

// Close implements driver.Rows.
func (r *compiledRows) Close() error {
	err := r.Rows.Close()
	if r.done != nil {
		give := r.done
		r.done = nil
		if giveErr := give(); err == nil {
			err = giveErr
		}
	}
	return err
}
