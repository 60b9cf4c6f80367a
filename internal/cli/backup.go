package cli

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/backup"
	"github.com/nimbus-ci/nimbus/internal/datadir"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/store"
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
	File       string `arg:"" help:"A backup, or a database that was kept before a migration." type:"path"`
	Force      bool   `help:"Put what is in the data directory aside, into a folder in it."`
	WithoutKey bool   `help:"Restore even though the master key at hand does not open what is sealed in the backup. The server starts once it has the right one."`

	masterKeyFlags `embed:""`
}

func (*restoreCmd) Help() string {
	return `Brings a backup back into the data directory, all of it or nothing. The server must not run. Before anything is replaced, the master key that the server will have is tried on every secret in the backup: it is the one in the backup, or else the one in the data directory, or the one that is named.
Jobs that ran when the backup was made are lost to it, and hosts end what they run; hosts that joined since then join anew.

` + usage("nimbus restore nimbus.backup --data /var/lib/nimbus", "nimbus restore nimbus.backup --master-key-file /mnt/safe/master.key", "nimbus restore --force /var/lib/nimbus/backups/20260102T030405.000-schema-9.db")
}

type restoreView struct {
	Data   string `json:"data"`
	Schema int64  `json:"schema"`
	Aside  string `json:"aside,omitempty"`
	Opens  bool   `json:"opens"` // whether the master key at hand opens what is sealed
}

func (c *restoreCmd) Run(ctx context.Context, a *app) (err error) {
	ctx, stop := untilSignal(ctx)
	defer stop()
	data, err := a.root.dataDir()
	if err != nil {
		return err
	}
	locked, err := datadir.Lock(data)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, locked.Undo())
		} else {
			err = locked.Close()
		}
	}()
	key := c.source(data)
	var shut error
	got, err := backup.Restore{Data: data, File: c.File, Force: c.Force, Now: time.Now(), Opens: func(ctx context.Context, db, packed string) error {
		shut = opens(ctx, db, c.keyAfter(key, data, packed))
		if c.WithoutKey {
			return nil
		}
		return shut
	}}.Run(ctx)
	if err != nil {
		return err
	}
	if a.root.JSON {
		return a.printJSON(restoreView{Data: data, Schema: got.Schema, Aside: got.Aside, Opens: shut == nil})
	}
	a.info("restored into %s", data)
	if got.Aside != "" {
		a.info("what was there is in %s", got.Aside)
	}
	if shut != nil {
		a.info("%s", a.errStyle.Warn(shut.Error()))
		a.info("the server does not start until the right one is there")
	}
	return nil
}

// keyAfter is where the server will find its master key: a backup that brings
// one replaces that of the data directory.
func (c *restoreCmd) keyAfter(now identity.KeySource, data, packed string) identity.KeySource {
	if packed != "" && now.File == filepath.Join(data, "master.key") {
		return identity.KeySource{File: packed}
	}
	return now
}

// opens tells whether all that is sealed in a database opens. Codes: conflict.
func opens(ctx context.Context, db string, key identity.KeySource) error {
	probe, err := key.Probe()
	if err != nil {
		return err
	}
	err = store.SealedIn(ctx, db, func(s identity.SealedSecret) error {
		probe.Try(s)
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	var own *nimbus.Error
	if errors.As(probe.Err(), &own) {
		return own.WithHint("put the right master key file there, or name it with --master-key-file; --without-key restores all the same, and the server waits for the key")
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
