// Package clickhouse keeps lines in ClickHouse as well: what the first store has
// acknowledged is copied there (Shipper), and read and searched there once the
// first store has let go of it.
package clickhouse

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"net/url"
	"regexp"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/nimbus-ci/nimbus"
)

// Config says where ClickHouse is and how lines are kept there.
type Config struct {
	// URL is of its HTTP interface, and names the database: https://host:8443/nimbus.
	// Required.
	URL string
	// User and Password are of who may read and write the tables; "" for ClickHouse's
	// default.
	User, Password string
	// TLS is for https; nil trusts what the system trusts.
	TLS *tls.Config
	// Retention is how long an org's lines are kept there; nil for ever.
	Retention Retention
	// NoCompression sends and takes lines as they are, for a server nearby.
	NoCompression bool
}

// Retention tells how long lines of an org are kept; 0 for ever.
type Retention func(ctx context.Context, orgID string) (time.Duration, error)

// Times of calls.
const (
	dialTimeout  = 5 * time.Second
	writeTimeout = 60 * time.Second
	readTimeout  = 30 * time.Second
	checkTimeout = 2 * time.Second
)

// maxConns bounds connections to the server, of readers and of the shipper.
const maxConns = 8

// databaseName is what a database may be called here: it is part of statements.
var databaseName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)

// Store is the tables of one ClickHouse. Its methods are safe for concurrent use.
type Store struct {
	conn      driver.Conn
	database  string
	user      string
	retention Retention
	windows   int // hours that a page of a search plans
}

// Open checks the configuration. It does not call the server, which may be away.
// Codes: invalid.
func Open(cfg Config) (*Store, error) {
	options, database, err := cfg.options()
	if err != nil {
		return nil, err
	}
	conn, err := clickhouse.Open(options)
	if err != nil {
		return nil, fmt.Errorf("open ClickHouse: %w", err)
	}
	s := &Store{conn: conn, database: database, user: cmp.Or(cfg.User, "default"), retention: cfg.Retention, windows: maxWindows}
	if s.retention == nil {
		s.retention = func(context.Context, string) (time.Duration, error) { return 0, nil }
	}
	return s, nil
}

// Check tells whether it can be used, without calling anybody. Codes: invalid.
func (cfg Config) Check() error {
	_, _, err := cfg.options()
	return err
}

func (cfg Config) options() (*clickhouse.Options, string, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, "", nimbus.Errorf(nimbus.CodeInvalid, "the address of ClickHouse is no URL of its HTTP interface").
			WithHint("it looks like https://clickhouse.example:8443/nimbus")
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, "", nimbus.Errorf(nimbus.CodeInvalid, "the address of ClickHouse names more than a server and a database").
			WithHint("user and password have settings of their own")
	}
	database := "nimbus"
	if u.Path != "" && u.Path != "/" {
		database = u.Path[1:]
	}
	if !databaseName.MatchString(database) {
		return nil, "", nimbus.Errorf(nimbus.CodeInvalid, "%q can't be the database of logs in ClickHouse: use letters, digits and _", database)
	}
	o := &clickhouse.Options{
		Protocol: clickhouse.HTTP, Addr: []string{address(u)}, Auth: clickhouse.Auth{Username: cfg.User, Password: cfg.Password},
		DialTimeout: dialTimeout, ReadTimeout: writeTimeout, MaxOpenConns: maxConns, MaxIdleConns: maxConns,
		ConnMaxLifetime: 10 * time.Minute,
		// LZ4 is less work, but nothing that could be tested; gzip at its fastest is
		// what every proxy on the way knows as well.
		Compression: &clickhouse.Compression{Method: clickhouse.CompressionGZIP, Level: 1},
	}
	if cfg.NoCompression {
		o.Compression = nil
	}
	if u.Scheme == "https" {
		if o.TLS = cfg.TLS; o.TLS == nil {
			o.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
		}
	}
	return o, database, nil
}

func address(u *url.URL) string {
	if u.Port() != "" {
		return u.Host
	}
	if u.Scheme == "https" {
		return u.Host + ":8443"
	}
	return u.Host + ":8123"
}

// table is the whole name of a table of ours.
func (s *Store) table(name string) string { return "`" + s.database + "`." + name }

// Check tells whether the server answers and has the tables. Codes: unavailable,
// conflict.
func (s *Store) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	version, err := s.version(ctx)
	if err != nil {
		return err
	}
	if version < len(migrations()) {
		return nimbus.Errorf(nimbus.CodeConflict, "ClickHouse lacks tables, or has those of an older release").WithHint("run: nimbus logs migrate")
	}
	return nil
}

// Close ends its connections.
func (s *Store) Close() error {
	if err := s.conn.Close(); err != nil {
		return fmt.Errorf("close ClickHouse: %w", err)
	}
	return nil
}
