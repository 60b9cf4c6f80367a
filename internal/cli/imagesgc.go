package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/rootfs"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/source"
)

type imagesGCCmd struct {
	imagesFlags

	MaxGiB int           `within:"0.." name:"max" help:"How many GiB container images may take together; those go first that were not used for the longest time. 0: any." default:"50" placeholder:"GIB"`
	Unused time.Duration `within:"0s.." help:"Also remove those that were not used for that long. 0: keep them." placeholder:"DURATION"`
	Local  bool          `name:"imports" help:"Also remove what was imported from a folder, an archive or a daemon: no registry has it."`
	Broken bool          `help:"Also remove those that are not what was signed."`
	DryRun bool          `help:"Only tell what would be removed."`
}

func (*imagesGCCmd) Help() string {
	return `Removes container images that hosts have converted, never one that a sandbox uses, nor one that was built. A host keeps its bound by itself after each conversion. The next job that wants one that is gone has it converted again; what was imported with --as, or from elsewhere than a registry, has to be imported again.

` + usage("nimbus images gc --max 20 --dry-run", "nimbus images gc --unused 720h --json", "nimbus images gc --broken")
}

func (c *imagesGCCmd) Run(ctx context.Context, a *app) error {
	roots, err := c.roots(a)
	if err != nil {
		return err
	}
	bounds := rootfs.Bounds{Bytes: int64(c.MaxGiB) << 30, Unused: c.Unused, Broken: c.Broken, Local: c.Local, Now: time.Now()}
	removed, err := roots.Collect(ctx, bounds, c.DryRun)
	if err != nil {
		return err
	}
	kept := 0
	if !c.Local {
		bounds.Local, bounds.Broken = true, false
		more, err := roots.Collect(ctx, bounds, true)
		if err != nil {
			return err
		}
		for _, r := range more {
			if !source.IsRegistry(r.Source) {
				kept++
			}
		}
	}
	v := struct {
		Removed []imageView `json:"removed"`
		Bytes   int64       `json:"bytes"`
		Kept    int         `json:"imports_kept"` // that would go, if a registry had them
		DryRun  bool        `json:"dry_run"`
	}{Removed: []imageView{}, Kept: kept, DryRun: c.DryRun}
	var rows []string
	for _, r := range removed {
		v.Removed = append(v.Removed, viewRoot("", r))
		v.Bytes += r.Size
		rows = append(rows, fmt.Sprintf("%s\t%d MiB\t%s\t%s", r.Source, r.Size>>20, since(r.UsedAt), r.Digest))
	}
	if a.root.JSON {
		return a.printJSON(v)
	}
	if kept > 0 {
		a.info("%d imported from a folder, an archive or a daemon stay, since no registry has them: --imports removes them too", kept)
	}
	if len(rows) == 0 {
		a.info("nothing to remove")
		return nil
	}
	return a.table("IMAGE\tSIZE\tUSED\tDIGEST", rows)
}
