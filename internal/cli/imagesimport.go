package cli

import (
	"context"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/library"
)

type imagesImportCmd struct {
	imagesFlags

	Source string `arg:"" help:"NAME:TAG of a registry, oci:FOLDER[:TAG], archive:FILE, or daemon:NAME." placeholder:"SOURCE"`
	As     string `help:"What jobs call it: lower case letters, digits and ._-. Default, for a registry's: the name that it has there; others need one." placeholder:"NAME"`
}

func (*imagesImportCmd) Help() string {
	return `Makes the root file system of microVMs from a container image: of a registry, an OCI layout, a file of docker save, or the docker daemon of this machine. It needs no root and mounts nothing; the same image gives the same bytes. A registry's login is taken from docker's configuration. Hosts import what jobs name by themselves; this is for images that no registry has, and for having one ready before the first job.

` + usage("nimbus images import python:3.12", "docker save acme/build:7 > build.tar && nimbus images import archive:build.tar --as build",
		"nimbus images import oci:./layout --as toolchain --json")
}

func (c *imagesImportCmd) Run(ctx context.Context, a *app) error {
	ctx, stop := untilSignal(ctx)
	defer stop()
	store, err := c.store(a)
	if err != nil {
		return err
	}
	l := library.New(library.Config{Images: store, Log: a.logger()})
	ref, root, err := l.Import(ctx, c.Source, c.As, func(what string) { a.info("%s", what) })
	if err != nil {
		return err
	}
	if a.root.JSON {
		return a.printJSON(viewRoot(ref.Name, root))
	}
	a.info("jobs get it as image:%s; it is %s", ref.Name, root.Digest)
	return nil
}
