package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
)

type cacheCmd struct {
	Stats     cacheStatsCmd     `cmd:"" default:"withargs" help:"Show what the org uses of the cache, and how often it was of use."`
	Ls        cacheLsCmd        `cmd:"" help:"List what jobs saved and are saving, newest first."`
	Rm        cacheRmCmd        `cmd:"" help:"Remove what jobs saved."`
	Warm      cacheWarmCmd      `cmd:"" help:"Bring what jobs saved to hosts, ahead of the jobs that restore it."`
	Hosts     cacheHostsCmd     `cmd:"" help:"Show what hosts keep of it on their own disks, and how often that was of use."`
	Quota     cacheQuotaCmd     `cmd:"" help:"Say how much may be kept."`
	Retention cacheRetentionCmd `cmd:"" help:"Say for how long what nobody finds is kept."`
}

// cacheFilterFlags say which entries are meant.
type cacheFilterFlags struct {
	Repo   string `help:"Only of this repository, OWNER/NAME, or - for the org's own jobs." placeholder:"REPO"`
	Scope  string `help:"Only of this branch, as refs/heads/main, or pull request." placeholder:"REF"`
	Key    string `help:"Only with exactly this key." placeholder:"KEY" public:"" xor:"key"`
	Prefix string `help:"Only with keys that begin so." placeholder:"TEXT" xor:"key"`
}

func (f cacheFilterFlags) filter() nimbus.CacheFilter {
	return nimbus.CacheFilter{Repo: f.Repo, Scope: f.Scope, Key: f.Key, Prefix: f.Prefix}
}

type cacheLsCmd struct {
	cacheFilterFlags

	Limit int    `within:"1..100000" help:"How many at most." default:"50" short:"n"`
	Page  string `help:"Go on behind an earlier list, by what that named as its next page." placeholder:"TOKEN"`
}

func (*cacheLsCmd) Help() string {
	return "What is being saved comes first, with the bytes that are counted for it; it is no entry yet, and can't be removed.\n\n" +
		usage("nimbus cache ls", "nimbus cache ls --repo octo/hello --prefix linux-go-", "nimbus cache ls --scope refs/heads/main -n 1000 --json | jq '.entries[].bytes'",
			"nimbus cache ls --json | jq '.uploads[] | [.key, .job_id] | @tsv' -r")
}

type cacheEntryView struct {
	ID        int64     `json:"id"`
	Repo      string    `json:"repo,omitempty"` // "" for the org's own jobs
	Scope     string    `json:"scope"`
	Key       string    `json:"key"`
	Version   string    `json:"version"`
	Bytes     int64     `json:"bytes"`
	CreatedAt time.Time `json:"created_at"`
	UsedAt    time.Time `json:"used_at"`
}

type cacheUploadView struct {
	ID        int64     `json:"id"`
	Repo      string    `json:"repo,omitempty"` // "" for the org's own jobs
	Scope     string    `json:"scope"`
	Key       string    `json:"key"`
	Version   string    `json:"version"`
	Bytes     int64     `json:"bytes"` // that are counted for it
	JobID     string    `json:"job_id,omitempty"`
	BegunAt   time.Time `json:"begun_at"`
	TouchedAt time.Time `json:"touched_at"` // when a byte came last, to the minute or so
}

// cachePage is how many entries are asked for at once.
const cachePage = 200

func (c *cacheLsCmd) Run(ctx context.Context, a *app) error {
	return a.asking(func(cl *client.Client) error {
		views, saving, token := []cacheEntryView{}, []cacheUploadView{}, c.Page
		if token == "" {
			uploads, err := cl.CacheUploads(ctx, c.filter())
			if err != nil {
				return err
			}
			for _, u := range uploads {
				saving = append(saving, cacheUploadView{u.ID, u.Repo, u.Scope, u.Key, u.Version, u.Bytes, u.JobID, u.BegunAt, u.TouchedAt})
			}
		}
		for {
			page, next, err := cl.CacheEntries(ctx, c.filter(), nimbus.PageRequest{Size: min(c.Limit-len(views), cachePage), Token: token})
			if err != nil {
				return err
			}
			for _, e := range page {
				views = append(views, cacheEntryView{e.ID, e.Repo, e.Scope, e.Key, e.Version, e.Bytes, e.CreatedAt, e.UsedAt})
			}
			if token = next; token == "" || len(views) >= c.Limit {
				break
			}
		}
		return a.printCacheEntries(saving, views, token)
	})
}

func (a *app) printCacheEntries(saving []cacheUploadView, views []cacheEntryView, next string) error {
	if a.root.JSON {
		return a.printJSON(struct {
			Entries []cacheEntryView  `json:"entries"`
			Uploads []cacheUploadView `json:"uploads"`
			Next    string            `json:"next_page,omitempty"`
		}{views, saving, next})
	}
	if len(saving)+len(views) == 0 {
		a.info("nothing is saved")
		return nil
	}
	rows := make([]string, 0, len(saving)+len(views))
	row := func(id int64, repo, scope, key string, bytes int64, created string, used time.Time) {
		rows = append(rows, strings.Join([]string{strconv.FormatInt(id, 10), repoWord(repo), terminal.OneLine(scope), terminal.OneLine(key), size(bytes),
			created, used.Local().Format(time.DateTime)}, "\t"))
	}
	for _, v := range saving {
		row(v.ID, v.Repo, v.Scope, v.Key, v.Bytes, "(being saved)", v.TouchedAt)
	}
	for _, v := range views {
		row(v.ID, v.Repo, v.Scope, v.Key, v.Bytes, v.CreatedAt.Local().Format(time.DateTime), v.UsedAt)
	}
	if err := a.table("ID\tREPO\tSCOPE\tKEY\tSIZE\tCREATED\tUSED", rows); err != nil {
		return err
	}
	if next != "" {
		a.info("there are more: --limit, or --page %s", next)
	}
	return nil
}

func repoWord(repo string) string {
	if repo == "" {
		return nimbus.OwnJobs
	}
	return terminal.OneLine(repo)
}

type cacheStatsCmd struct{}

func (*cacheStatsCmd) Help() string {
	return "What is used is told with what uploads have reserved. The counts are from the beginning, and some seconds old: a look-up that finds something is a hit, one that finds nothing a miss.\n\n" +
		usage("nimbus cache", "nimbus cache stats --org acme", "nimbus cache stats --json | jq '.repos[] | [.repo, .hit_ratio] | @tsv' -r")
}

type cacheUsageView struct {
	Repo         string  `json:"repo,omitempty"` // "" for the org's own jobs
	Entries      int64   `json:"entries"`
	Bytes        int64   `json:"bytes"`
	QuotaBytes   int64   `json:"quota_bytes"`
	OwnQuota     bool    `json:"own_quota,omitempty"` // it is not the usual one
	Hits         int64   `json:"hits"`
	Misses       int64   `json:"misses"`
	HitRatio     float64 `json:"hit_ratio"`
	BytesIn      int64   `json:"bytes_in"`
	BytesOut     int64   `json:"bytes_out"`
	Evicted      int64   `json:"evicted"`
	EvictedBytes int64   `json:"evicted_bytes"`
	Refused      int64   `json:"refused"`
}

func viewCacheUsage(u nimbus.CacheUsage) cacheUsageView {
	return cacheUsageView{u.Repo, u.Entries, u.Bytes, u.Quota, u.OwnQuota, u.Hits, u.Misses, u.HitRatio(), u.BytesIn, u.BytesOut, u.Evicted, u.EvictedBytes, u.Refused}
}

func (*cacheStatsCmd) Run(ctx context.Context, a *app) error {
	return a.asking(func(cl *client.Client) error {
		st, err := cl.CacheStats(ctx)
		if err != nil {
			return err
		}
		return a.printCacheStats(st)
	})
}

func (a *app) printCacheStats(st nimbus.CacheStats) error {
	org, repos := viewCacheUsage(st.Org), make([]cacheUsageView, len(st.Repos))
	for i, u := range st.Repos {
		repos[i] = viewCacheUsage(u)
	}
	if a.root.JSON {
		return a.printJSON(struct {
			Org              cacheUsageView   `json:"org"`
			Repos            []cacheUsageView `json:"repos"`
			RetentionSeconds float64          `json:"retention_seconds"`
		}{org, repos, st.Retention.Seconds()})
	}
	rows := make([]string, 0, len(repos)+1)
	row := func(name string, v cacheUsageView) {
		rows = append(rows, fmt.Sprintf("%s\t%d\t%s\t%s\t%s\t%s\t%s\t%d\t%d", name, v.Entries, size(v.Bytes), size(v.QuotaBytes), hits(v.Hits, v.Misses, v.HitRatio), size(v.BytesIn), size(v.BytesOut), v.Evicted, v.Refused))
	}
	row("(all)", org)
	for _, v := range repos {
		row(repoWord(v.Repo), v)
	}
	if err := a.table("REPO\tENTRIES\tSIZE\tQUOTA\tHITS\tIN\tOUT\tEVICTED\tREFUSED", rows); err != nil {
		return err
	}
	a.info("what nobody finds goes after %s; what hosts keep of it: nimbus cache hosts", days(st.Retention))
	return nil
}

// days is a time in days, where it is of whole ones.
func days(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= day && d%day == 0 {
		return fmt.Sprintf("%d days", d/day)
	}
	return d.String()
}

type cacheRmCmd struct {
	cacheFilterFlags

	ID  int64 `arg:"" within:"0..9007199254740991" optional:"" help:"The id of one entry, as ls shows it."`
	All bool  `help:"All entries of the org."`
}

func (*cacheRmCmd) Help() string {
	return "They are not found from then on; a job that is reading one goes on.\n\n" +
		usage("nimbus cache rm 246198418649956", "nimbus cache rm --repo octo/hello --prefix linux-go-", "nimbus cache rm --scope refs/pull/7/merge", "nimbus cache rm --all")
}

func (c *cacheRmCmd) Run(ctx context.Context, a *app) error {
	f := c.filter()
	f.ID = c.ID
	if f == (nimbus.CacheFilter{}) != c.All || f.ID != 0 && f != (nimbus.CacheFilter{ID: f.ID}) {
		return badUsage(nimbus.Errorf(nimbus.CodeInvalid, "which entries are to go?").WithHint("name an id, or else --repo, --scope, --key or --prefix, or --all"))
	}
	return a.asking(func(cl *client.Client) error {
		n, bytes, err := cl.RemoveCacheEntries(ctx, f)
		if err != nil {
			return err
		}
		return a.say("removed", struct {
			Entries int64 `json:"entries"`
			Bytes   int64 `json:"bytes"`
		}{n, bytes}, "removed %d entries, %s", n, size(bytes))
	})
}

type cacheQuotaCmd struct {
	Repo cacheQuotaRepoCmd `cmd:"" help:"Say how much a repository of the org may have."`
	Org  cacheQuotaOrgCmd  `cmd:"" help:"Say how much an org may have; for the platform's administrators."`
}

const aboutCacheQuota = "Where a quota is full, what was not used for longest makes room. One that is made smaller has what is over it go within a minute or two. The usual quotas are flags of the server (--cache-…).\n\n"

// quotaArg is how much may be kept.
type quotaArg struct {
	GiB string `arg:"" name:"gib" help:"How many GiB, as 20 or 0.5, or usual."`
}

func (q quotaArg) bytes() (int64, error) {
	if q.GiB == "usual" {
		return -1, nil
	}
	gib, err := strconv.ParseFloat(q.GiB, 64)
	if err != nil || !(gib >= 0 && gib <= 1<<20) {
		return 0, badUsage(nimbus.Errorf(nimbus.CodeInvalid, "%.80q is no quota", q.GiB).WithHint("write how many GiB, as 20 or 0.5, or usual"))
	}
	return int64(gib * (1 << 30)), nil
}

func (q quotaArg) said() string {
	if q.GiB == "usual" {
		return "the usual quota"
	}
	return "a quota of " + q.GiB + " GiB"
}

type cacheQuotaRepoCmd struct {
	Repo string `arg:"" help:"OWNER/NAME, or - for the org's own jobs."`

	quotaArg
}

func (*cacheQuotaRepoCmd) Help() string {
	return aboutCacheQuota + usage("nimbus cache quota repo octo/hello 20", "nimbus cache quota repo octo/hello usual")
}

func (c *cacheQuotaRepoCmd) Run(ctx context.Context, a *app) error {
	bytes, err := c.bytes()
	if err != nil {
		return err
	}
	return a.asking(func(cl *client.Client) error {
		if err := cl.SetRepoCacheQuota(ctx, c.Repo, bytes); err != nil {
			return err
		}
		return a.showCacheStats(ctx, cl)
	})
}

type cacheQuotaOrgCmd struct {
	OrgName string `arg:"" name:"org" help:"Its name or id."`

	quotaArg
}

func (*cacheQuotaOrgCmd) Help() string {
	return aboutCacheQuota + usage("nimbus cache quota org acme 200", "nimbus cache quota org acme usual")
}

func (c *cacheQuotaOrgCmd) Run(ctx context.Context, a *app) error {
	bytes, err := c.bytes()
	if err != nil {
		return err
	}
	return a.asking(func(cl *client.Client) error {
		if err := cl.SetOrgCacheQuota(ctx, c.OrgName, bytes); err != nil {
			return err
		}
		return a.say("quota", struct {
			Org string `json:"org"`
			GiB string `json:"gib"`
		}{c.OrgName, c.GiB}, "the org %s has %s", terminal.OneLine(c.OrgName), c.said())
	})
}

type cacheRetentionCmd struct {
	Days string `arg:"" help:"How many days, as 30 or 0.5, or usual."`
}

func (*cacheRetentionCmd) Help() string {
	return "Entries that no job has found for that long go, be there room or not.\n\n" + usage("nimbus cache retention 30", "nimbus cache retention usual")
}

func (c *cacheRetentionCmd) Run(ctx context.Context, a *app) error {
	retention := time.Duration(-1)
	if c.Days != "usual" {
		n, err := strconv.ParseFloat(c.Days, 64)
		if err != nil || !(n > 0 && n <= 366) {
			return badUsage(nimbus.Errorf(nimbus.CodeInvalid, "%.80q are no days", c.Days).WithHint("write how many, as 30 or 0.5, at most 366; or usual"))
		}
		retention = time.Duration(n * 24 * float64(time.Hour))
	}
	return a.asking(func(cl *client.Client) error {
		if err := cl.SetCacheRetention(ctx, retention); err != nil {
			return err
		}
		return a.showCacheStats(ctx, cl)
	})
}

func (a *app) showCacheStats(ctx context.Context, cl *client.Client) error {
	st, err := cl.CacheStats(ctx)
	if err != nil {
		return err
	}
	return a.printCacheStats(st)
}
