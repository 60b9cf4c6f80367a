package cli

import (
	"os"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs/clickhouse"
	"github.com/nimbus-ci/nimbus/internal/server"
	"github.com/nimbus-ci/nimbus/internal/tlsfile"
)

// clickhouseFlags say where ClickHouse is, and as whom it is called.
type clickhouseFlags struct {
	URL          string `help:"URL of ClickHouse's HTTP interface, and the database in it, as https://host:8443/nimbus: logs are kept there for long. Default: none." name:"clickhouse" env:"NIMBUS_CLICKHOUSE" placeholder:"URL"`
	User         string `help:"User of ClickHouse." name:"clickhouse-user" env:"NIMBUS_CLICKHOUSE_USER" placeholder:"NAME"`
	PasswordFile string `help:"File with that user's password. Or set NIMBUS_CLICKHOUSE_PASSWORD to it." name:"clickhouse-password-file" type:"path" placeholder:"FILE"`
	CA           string `help:"File with CA certificates, PEM, that are trusted beside the system's." name:"clickhouse-ca" type:"path" placeholder:"FILE"`
	Plain        bool   `help:"Send lines as they are, not compressed: for a ClickHouse nearby." name:"clickhouse-plain" env:"NIMBUS_CLICKHOUSE_PLAIN"`
}

// config reads them: nil where there is no ClickHouse. Codes: invalid.
func (f clickhouseFlags) config() (*clickhouse.Config, error) {
	if f.URL == "" {
		if f.User != "" || f.PasswordFile != "" || f.CA != "" {
			return nil, badUsage(nimbus.Errorf(nimbus.CodeInvalid, "ClickHouse needs its address").WithHint("give --clickhouse https://…"))
		}
		return nil, nil
	}
	cfg := &clickhouse.Config{URL: f.URL, User: f.User, NoCompression: f.Plain}
	cfg.Password = os.Getenv("NIMBUS_CLICKHOUSE_PASSWORD")
	if f.PasswordFile != "" {
		raw, err := os.ReadFile(f.PasswordFile)
		if err != nil {
			return nil, nimbus.Errorf(nimbus.CodeInvalid, "ClickHouse's password can't be read: %w", err)
		}
		cfg.Password = strings.TrimRight(string(raw), "\r\n")
	}
	if f.CA != "" {
		encryption, err := tlsfile.Client(f.CA, "", "")
		if err != nil {
			return nil, err
		}
		cfg.TLS = encryption
	}
	if err := cfg.Check(); err != nil {
		return nil, badUsage(err)
	}
	return cfg, nil
}

// logCopyFlags are those, and how long logs are kept here beside it.
type logCopyFlags struct {
	clickhouseFlags `embed:""`

	LogsLocal time.Duration `within:"1h..8784h" help:"How long after its end a log is kept here as well, where there is ClickHouse." default:"24h" env:"NIMBUS_LOGS_LOCAL" placeholder:"TIME"`
}

// apply tells a server of them. Codes: invalid.
func (f logCopyFlags) apply(to *server.Operations) (err error) {
	to.LogsLocal = f.LogsLocal
	to.ClickHouse, err = f.config()
	return err
}
