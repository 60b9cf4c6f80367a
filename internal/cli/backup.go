package cli

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/backup"
	"github.com/nimbus-ci/nimbus/internal/server"
)

type backupCmd struct {
	File     string `arg:"" help:"File to write; one that is there is replaced once the backup is whole." type:"path"`
	WithKey  bool   `help:"Keep the master key and the administrator's token in it too. Who has such a file has everything."`
	WithLogs bool   `help:"Keep logs and uploaded files in it too."`
}

func (*backupCmd) Help() string {
	return `Keeps the database of ` + "`nimbus up`" + ` in a file, while the server runs or not. The master key is left out: keep it elsewhere, once; without it the secrets in the database can't be opened.
Replicas on PostgreSQL are backed up with PostgreSQL's own tools.

` + usage("nimbus backup nimbus.backup", "nimbus backup --with-logs /mnt/nightly/nimbus.backup")
}

type backupView struct {
	File   string `json:"file"`
	Bytes  int64  `json:"bytes"`
	Schema int64  `json:"schema"`
	Keys   bool   `json:"keys"`
	Logs   bool   `json:"logs"`
}

func (c *backupCmd) Run(ctx context.Context, a *app) error {
	ctx, stop := untilSignal(ctx)
	defer stop()
	data, err := a.root.dataDir()
	if err != nil {
		return err
	}
	m, err := backup.Write(ctx, backup.Options{Data: data, File: c.File, Keys: c.WithKey, Logs: c.WithLogs, Version: a.version, Now: time.Now()})
	if err != nil {
		return err
	}
	info, err := os.Stat(c.File)
	if err != nil {
		return nimbus.Errorf(nimbus.CodeInternal, "the backup is gone: %w", err)
	}
	if a.root.JSON {
		return a.printJSON(backupView{File: c.File, Bytes: info.Size(), Schema: m.Schema, Keys: m.Keys, Logs: m.Logs})
	}
	a.info("kept in %s, %d KiB, and read back", c.File, (info.Size()+1023)>>10)
	if !m.Keys {
		a.info("%s", a.errStyle.Quiet("the master key is not in it: keep "+filepath.Join(data, "master.key")+" elsewhere"))
	}
	return nil
}

type restoreCmd struct {
	File  string `arg:"" help:"A backup, or a database that was kept before a migration." type:"path"`
	Force bool   `help:"Put what is in the data directory aside, into a folder in it."`
}

func (*restoreCmd) Help() string {
	return `Brings a backup back into the data directory, all of it or nothing. The server must not run.
Jobs that ran when the backup was made are lost to it, and hosts end what they run; hosts that joined since then join anew.

` + usage("nimbus restore nimbus.backup --data /var/lib/nimbus", "nimbus restore --force /var/lib/nimbus/backups/20260102T030405.000-schema-9.db")
}

type restoreView struct {
	Data   string `json:"data"`
	Schema int64  `json:"schema"`
	Aside  string `json:"aside,omitempty"`
}

func (c *restoreCmd) Run(ctx context.Context, a *app) (err error) {
	ctx, stop := untilSignal(ctx)
	defer stop()
	data, err := a.root.dataDir()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nimbus.Errorf(nimbus.CodeInvalid, "the data directory can't be made: %w", err)
	}
	locked, err := server.Lock(data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, locked.Close()) }()
	got, err := backup.Restore{Data: data, File: c.File, Force: c.Force, Now: time.Now()}.Run(ctx)
	if err != nil {
		return err
	}
	if a.root.JSON {
		return a.printJSON(restoreView{Data: data, Schema: got.Schema, Aside: got.Aside})
	}
	a.info("restored into %s", data)
	if got.Aside != "" {
		a.info("what was there is in %s", got.Aside)
	}
	if !got.Keys {
		a.info("put the master key back as %s before the server starts: without it no secret opens", filepath.Join(data, "master.key"))
	}
	return nil
}

// mustExist refuses to go on without a database, where opening would make one.
func mustExist(path string) error {
	_, err := os.Stat(path)
	if err != nil {
		return nimbus.Errorf(nimbus.CodeNotFound, "there is no database of this machine's server: %w", err).
			WithHint("name the server's data directory with --data, or the replicas' database with --database-file")
	}
	return nil
}
