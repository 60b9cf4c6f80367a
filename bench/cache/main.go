// Command cache measures what the cache of jobs costs: raw uploads and downloads
// by one client and by eight, in blocks as large as those of @actions/cache and as
// small as BuildKit's, and 500 MiB and 20,000 small files through the real client.
//
// The floor is a plain Go program that does the same with the same bytes: hashes
// them, syncs each file and its folder, and sends them by http.ServeContent. It
// knows no tokens, no quotas and no database. Both take turns, and who is first
// too; a figure's ratio is the median of the rounds' ratios.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/nimbus-ci/nimbus/bench/profile"
	"github.com/nimbus-ci/nimbus/bench/report"
)

func main() {
	ctx := context.Background()
	if len(os.Args) == 4 && os.Args[1] == "floor" {
		exit(serveFloor(os.Args[2], os.Args[3]))
	}
	exit(run(ctx))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-cache:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench-cache: "+format+"\n", args...)
}

const mib = 1 << 20

// sizes is how much is measured.
type sizes struct {
	rounds, clientRounds int
	put, putSmall        int64 // bytes of one round of uploads, in all
	entry                int64 // bytes of what is downloaded
	small                int   // entries of a MiB that are downloaded
	archive              int64 // bytes through the real client
	files                int   // small files through the real client
}

func sizesOf() sizes {
	s := sizes{rounds: 7, clientRounds: 3, put: 512 * mib, putSmall: 128 * mib, entry: 512 * mib, small: 512, archive: 500 * mib, files: 20_000}
	if os.Getenv("QUICK") != "" {
		s = sizes{rounds: 3, clientRounds: 1, put: 128 * mib, putSmall: 32 * mib, entry: 128 * mib, small: 128, archive: 64 * mib, files: 2000}
	}
	return s
}

// bench is what the parts share.
type bench struct {
	sizes
	report        *report.Report
	dir           string
	product, base *side
}

func run(ctx context.Context) (err error) {
	b := &bench{sizes: sizesOf(), report: report.New("cache")}
	if b.dir, err = os.MkdirTemp("", "nimbus-bench-cache-"); err != nil {
		return fmt.Errorf("make work folder: %w", err)
	}
	defer os.RemoveAll(b.dir)
	if b.base, err = startFloor(ctx, b.dir); err != nil {
		return err
	}
	defer b.base.stop()
	if b.product, err = startProduct(ctx, b.dir); err != nil {
		return err
	}
	defer b.product.stop()
	wait := profile.While(ctx, b.product.url, b.product.adminToken)
	err = errors.Join(b.raw(ctx), wait())
	if err == nil && os.Getenv("ONLY") != "raw" {
		err = b.real(ctx)
	}
	if err != nil {
		return err
	}
	return b.report.Write(os.Stdout)
}
