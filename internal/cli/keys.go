package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/store"
)

type keysCmd struct {
	List   keysListCmd   `cmd:"" default:"withargs" help:"Show the master keys, by their ids, and how much is sealed with each."`
	Rotate keysRotateCmd `cmd:"" help:"Seal all secrets anew with another master key."`
}

// keysFlags name what a rotation is about: the key file, and the database.
type keysFlags struct {
	masterKeyFlags `embed:""`

	DatabaseFile string `help:"File with the postgres:// URL of the replicas' database. Or set NIMBUS_DATABASE to the URL. Default: the database of this machine's server, in the data directory." type:"path" placeholder:"FILE"`
}

// with opens what the flags name. It may be done beside a server that runs.
func (f keysFlags) with(ctx context.Context, a *app, do func(identity.Rotation) error) (err error) {
	data, err := a.root.dataDir()
	if err != nil {
		return err
	}
	source := f.source(data)
	if source.File == "" {
		return nimbus.Errorf(nimbus.CodeInvalid, "the master key is in "+masterKeyVariable+", where it can't be changed").
			WithHint("write it into a file (0600), name it with --master-key-file, and keep what the file holds afterwards")
	}
	dsn, err := secretURL(f.DatabaseFile, "NIMBUS_DATABASE")
	if err != nil {
		return err
	}
	if dsn == "" {
		path := filepath.Join(data, "nimbus.db")
		if err := mustExist(path); err != nil {
			return err
		}
		dsn = "sqlite:" + path
	}
	db, err := store.Open(ctx, store.Config{DSN: dsn, AsIs: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return do(identity.Rotation{File: source.File, Store: db, Settle: identity.Settle})
}

type keysListCmd struct {
	keysFlags `embed:""`
}

func (*keysListCmd) Help() string {
	return "Keys themselves are never shown. The first one seals, all open.\n\n" + usage("nimbus keys", "nimbus keys list --json | jq .keys")
}

type keyView struct {
	ID      string `json:"id"`
	Seals   bool   `json:"seals"`
	Missing bool   `json:"missing"`
	Secrets int    `json:"secrets"`
}

func (c *keysListCmd) Run(ctx context.Context, a *app) error {
	return c.with(ctx, a, func(r identity.Rotation) error {
		uses, err := r.Uses(ctx)
		if err != nil {
			return err
		}
		v := struct {
			Keys []keyView `json:"keys"`
		}{Keys: []keyView{}}
		var rows []string
		for _, u := range uses {
			v.Keys = append(v.Keys, keyView(u))
			state := "opens"
			switch {
			case u.Missing:
				state = "missing: put its line back into " + r.File
			case u.Seals:
				state = "seals"
			}
			rows = append(rows, fmt.Sprintf("%s\t%d\t%s", u.ID, u.Secrets, state))
		}
		if a.root.JSON {
			return a.printJSON(v)
		}
		return a.table("ID\tSECRETS\tSTATE", rows)
	})
}

type keysRotateCmd struct {
	keysFlags `embed:""`

	Stage   bool   `help:"Only add a key, which opens and does not seal yet: for replicas on several machines."`
	To      string `help:"Take the key with this id, which was staged, instead of a new one." placeholder:"ID"`
	KeepOld bool   `help:"Leave the old keys in the file."`
}

func (*keysRotateCmd) Help() string {
	return `Puts a new key on top of the key file, seals all secrets anew with it, and removes the old keys once nothing is sealed with them. Servers that run follow the file; nothing has to be restarted. A rotation that was interrupted is finished by the next one.
Where replicas have copies of the key file, stage a key, copy the file to all, rotate to it with --keep-old, copy again, and finish with another rotate.

` + usage("nimbus keys rotate", "nimbus keys rotate --stage", "nimbus keys rotate --to 0badcafe --keep-old --database-file db.url --master-key-file master.key")
}

func (c *keysRotateCmd) Run(ctx context.Context, a *app) error {
	ctx, stop := untilSignal(ctx)
	defer stop()
	return c.with(ctx, a, func(r identity.Rotation) error {
		if c.Stage {
			return c.stage(ctx, a, r)
		}
		got, err := r.Run(ctx, c.To, c.KeepOld)
		if err != nil {
			return err
		}
		if a.root.JSON {
			return a.printJSON(struct {
				ID       string   `json:"id"`
				Resumed  bool     `json:"resumed"`
				Resealed int      `json:"resealed"`
				Removed  []string `json:"removed"`
			}{got.ID, got.Resumed, got.Resealed, append([]string{}, got.Removed...)})
		}
		if got.Resumed {
			a.info("finished the rotation that was begun before")
		}
		a.info("key %s seals now, and %s sealed anew with it", got.ID, terminal.Count(got.Resealed, "secret"))
		for _, id := range got.Removed {
			a.info("key %s is removed", id)
		}
		return nil
	})
}

func (c *keysRotateCmd) stage(ctx context.Context, a *app, r identity.Rotation) error {
	if c.To != "" || c.KeepOld {
		return badUsage(nimbus.Errorf(nimbus.CodeInvalid, "--stage goes with neither --to nor --keep-old"))
	}
	id, err := r.Stage(ctx)
	if err != nil {
		return err
	}
	if a.root.JSON {
		return a.printJSON(struct {
			ID string `json:"id"`
		}{id})
	}
	a.info("key %s is staged; copy %s to all replicas, then `nimbus keys rotate --to %s --keep-old`", id, r.File, id)
	return nil
}
