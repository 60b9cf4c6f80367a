package cli

import (
	"context"
	"errors"
	"os"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
)

type logsExportCmd struct {
	File string `arg:"" help:"File to write; one that is there stays." type:"path"`
}

func (*logsExportCmd) Help() string {
	return "Keeps all logs of the org in a file, for the org's admins. Recordings of shells are not among them.\n\n" +
		usage("nimbus logs export acme.logs", "nimbus logs export --org acme /mnt/archive/acme.logs")
}

func (c *logsExportCmd) Run(ctx context.Context, a *app) (err error) {
	if c.File == "-" {
		return nimbus.Errorf(nimbus.CodeInvalid, "an archive goes to a file, not to stdout").WithHint("name a file: only one that is whole is put in its place")
	}
	part := c.File + ".part"
	if _, err := os.Stat(c.File); err == nil {
		return nimbus.Errorf(nimbus.CodeInvalid, "%s is there already", c.File).WithHint("name another file")
	}
	f, err := os.OpenFile(part, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nimbus.Errorf(nimbus.CodeInvalid, "the file can't be written: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(part))
		}
	}()
	damaged := 0
	err = a.asking(func(cl *client.Client) (err error) {
		damaged, err = cl.ExportLogs(ctx, f)
		return err
	})
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(part, c.File); err != nil {
		return nimbus.Errorf(nimbus.CodeInvalid, "the file can't be put in place: %w", err)
	}
	if damaged > 0 {
		a.info("warning: %d logs are damaged on the server: the file has what can be read of them, and says what can't", damaged)
	}
	return a.say("file", c.File, "the org's logs are in %s", c.File)
}

type logsImportCmd struct {
	File string `arg:"" help:"A file that nimbus logs export wrote." type:"existingfile"`
}

func (*logsImportCmd) Help() string {
	return "Brings logs back that an org had, for its admins: of attempts that have none now and that no host writes. Logs that are there stay as they are, and the file has to be of the same org.\n\n" +
		usage("nimbus logs import acme.logs", "nimbus logs import acme.logs --json | jq .imported.skipped")
}

func (c *logsImportCmd) Run(ctx context.Context, a *app) error {
	f, err := os.Open(c.File)
	if err != nil {
		return nimbus.Errorf(nimbus.CodeInvalid, "the file can't be read: %w", err)
	}
	defer f.Close()
	return a.asking(func(cl *client.Client) error {
		done, err := cl.ImportLogs(ctx, f)
		if err != nil {
			return err
		}
		if done.Lost > 0 {
			a.info("warning: %d more lines could not be read when they were exported: their logs say which", done.Lost)
		}
		return a.say("imported", done, "%d logs with %d lines are back; %d were there", done.Attempts, done.Lines, done.Skipped)
	})
}
