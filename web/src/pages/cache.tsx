import { Code, ConnectError } from "@connectrpc/connect";
import { useInfiniteQuery, useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { type SubmitEvent, useState } from "react";

import { caches, mayOperate, message, whoAmI } from "../api";
import { ofRepo, ratio } from "../cache/figures";
import type { CacheSearch } from "../cache/filter";
import type { CacheEntry, CacheUpload, GetCacheStatsResponse } from "../gen/nimbus/v1/cache_pb";
import { millis } from "../job/timeline";
import { Meter } from "../ui/meter";
import { Command, Loading, Notice } from "../ui/notice";
import { useNow } from "../ui/now";
import { Question } from "../ui/question";
import { ago, bytes, percent } from "../ui/words";

const statsKey = ["cache", "stats"];

export function CachePage({ search }: { search: CacheSearch }) {
  const { data, error, isPending } = useQuery({
    queryKey: statsKey,
    queryFn: ({ signal }) => caches.getCacheStats({}, { signal }),
    refetchInterval: 10_000,
    retry: (count, e) => count < 2 && ConnectError.from(e).code !== Code.Unimplemented,
  });
  return (
    <>
      <h1 className="mb-4 text-xl font-semibold">Cache</h1>
      {isPending ? (
        <Loading what="the cache" />
      ) : error && !data ? (
        <Notice title="The cache can't be read">
          <p>{message(error)}</p>
        </Notice>
      ) : !isUsed(data) ? (
        <Empty />
      ) : (
        <div className="grid gap-6">
          <Usage stats={data} />
          <Entries search={search} />
        </div>
      )}
    </>
  );
}

/** Whether anything was ever saved or looked for. */
function isUsed({ org }: GetCacheStatsResponse): boolean {
  return org !== undefined && (org.entries > 0n || org.hits + org.misses + org.bytesIn > 0n);
}

function Empty() {
  return (
    <Notice title="Nothing is cached yet">
      <p>
        Steps with <Command>uses: actions/cache@v4</Command>, and the setup actions, save here without anything being set.
      </p>
      <p>In jobs of the command line, any client does:</p>
      <p>
        <Command>curl -fT file -H "Authorization: Bearer $NIMBUS_CACHE_TOKEN" $NIMBUS_CACHE_URL/my/key</Command>
      </p>
    </Notice>
  );
}

/** What is used of the quotas, in all and by repository. */
function Usage({ stats }: { stats: GetCacheStatsResponse }) {
  const { org } = stats;
  if (!org) return null;
  return (
    <section aria-label="Usage" className="rounded-lg border border-line bg-panel p-4">
      <dl className="grid grid-cols-2 gap-x-6 gap-y-3 sm:grid-cols-5">
        <Figure name="Used" value={bytes(org.bytes)} note={`of ${bytes(org.quotaBytes)}`} />
        <Figure name="Look-ups that found something" value={ratio(org.hits, org.misses)} note={`${org.hits} of ${org.hits + org.misses}`} />
        <Figure name="Saved" value={bytes(org.bytesIn)} />
        <Figure name="Restored" value={bytes(org.bytesOut)} />
        <Figure name="Made room" value={String(org.evicted)} note={org.refused > 0n ? `${org.refused} refused` : undefined} />
      </dl>
      <Meter label="Of the org's quota" used={percent(org.bytes, org.quotaBytes)} />
      {stats.repos.length > 0 && (
        <ul className="mt-4 grid gap-3 border-t border-line pt-4">
          {stats.repos.slice(0, reposShown).map((repo) => (
            <li key={repo.repo}>
              <p className="flex flex-wrap justify-between gap-x-4 text-sm">
                <span className="min-w-0 font-medium break-all">{ofRepo(repo.repo)}</span>
                <span className="text-quiet tabular-nums">
                  {bytes(repo.bytes)} of {bytes(repo.quotaBytes)} · hits {ratio(repo.hits, repo.misses)}
                </span>
              </p>
              <Meter label={`Of the quota of ${ofRepo(repo.repo)}`} used={percent(repo.bytes, repo.quotaBytes)} />
            </li>
          ))}
        </ul>
      )}
      {stats.repos.length > reposShown && (
        <p className="mt-3 text-sm text-quiet">
          The {reposShown} largest of {stats.repos.length}. <Command>nimbus cache</Command> has all of them.
        </p>
      )}
    </section>
  );
}

const reposShown = 10;

function Figure({ name, value, note }: { name: string; value: string; note?: string | undefined }) {
  return (
    <div>
      <dt className="text-sm text-quiet">{name}</dt>
      <dd className="text-lg font-semibold tabular-nums">
        {value} {note && <span className="text-sm font-normal whitespace-nowrap text-quiet">{note}</span>}
      </dd>
    </div>
  );
}

/** The entries that the address asks for, newest first, a page at a time. */
function Entries({ search }: { search: CacheSearch }) {
  const now = useNow(false);
  const me = useQuery({ queryKey: ["me"], queryFn: ({ signal }) => whoAmI(signal), staleTime: 60_000 });
  const { data, error, isPending, hasNextPage, isFetchingNextPage, fetchNextPage } = useInfiniteQuery({
    queryKey: ["cache", "entries", search],
    initialPageParam: "",
    queryFn: ({ pageParam, signal }) =>
      caches.listCacheEntries({ filter: { repo: search.repo ?? "", keyPrefix: search.prefix ?? "" }, pageSize: 50, pageToken: pageParam }, { signal }),
    getNextPageParam: (last) => last.nextPageToken || undefined,
    refetchInterval: (query) => ((query.state.data?.pages.length ?? 0) > 1 ? false : 10_000), // who reads on is left in peace
  });
  const [removing, setRemoving] = useState<CacheEntry>();
  const entries = data?.pages.flatMap((page) => page.entries) ?? [];
  const uploads = data?.pages[0]?.uploads ?? [];
  return (
    <section aria-label="Entries">
      <Filter search={search} />
      <Uploads uploads={uploads} now={now} />
      {isPending ? (
        <Loading what="entries" />
      ) : error && entries.length === 0 ? (
        <Notice title="The entries can't be read">
          <p>{message(error)}</p>
        </Notice>
      ) : entries.length === 0 ? (
        <Notice title={(search.repo ?? search.prefix) === undefined ? "Nothing is saved" : "No entry matches this filter"} />
      ) : (
        <ul aria-label="Entries, newest first" className="divide-y divide-line overflow-hidden rounded-lg border border-line bg-panel">
          {entries.map((entry) => (
            <EntryRow key={entry.id} entry={entry} now={now} onRemove={mayOperate(me.data) ? () => setRemoving(entry) : undefined} />
          ))}
        </ul>
      )}
      {hasNextPage && (
        <button type="button" disabled={isFetchingNextPage} onClick={() => void fetchNextPage()} className={`mt-3 ${plain}`}>
          {isFetchingNextPage ? "Loading…" : "Show more"}
        </button>
      )}
      {removing && <Removal entry={removing} onEnd={() => setRemoving(undefined)} />}
    </section>
  );
}

const plain = "rounded border border-line px-3 py-1.5 text-sm hover:bg-hover disabled:text-quiet";
const field = "w-full rounded border border-line bg-panel px-2.5 py-1.5 text-sm";

function Filter({ search }: { search: CacheSearch }) {
  const navigate = useNavigate();
  const submit = (event: SubmitEvent<HTMLFormElement>) => {
    event.preventDefault();
    const said = new FormData(event.currentTarget);
    const next: CacheSearch = {};
    for (const name of ["repo", "prefix"] as const) {
      const value = said.get(name);
      if (typeof value === "string" && value.trim()) next[name] = value.trim();
    }
    void navigate({ to: "/caches", search: next });
  };
  return (
    <form onSubmit={submit} className="mb-3 flex flex-wrap items-end gap-3" role="search">
      <label className="grid min-w-40 flex-1 gap-1 text-sm text-quiet">
        Repository
        <input name="repo" defaultValue={search.repo ?? ""} placeholder="owner/name, or - for the org's own" maxLength={512} className={`${field} text-ink`} />
      </label>
      <label className="grid min-w-40 flex-1 gap-1 text-sm text-quiet">
        Keys that begin with
        <input name="prefix" defaultValue={search.prefix ?? ""} placeholder="linux-go-" maxLength={512} className={`${field} font-mono text-ink`} />
      </label>
      <button type="submit" className={plain}>
        Filter
      </button>
      {(search.repo ?? search.prefix) !== undefined && (
        <button type="button" className={plain} onClick={() => void navigate({ to: "/caches", search: {} })}>
          Show all
        </button>
      )}
    </form>
  );
}

/** What is being saved, which holds room too. */
function Uploads({ uploads, now }: { uploads: CacheUpload[]; now: number }) {
  if (uploads.length === 0) return null;
  return (
    <ul aria-label="Being saved" className="mb-3 divide-y divide-line overflow-hidden rounded-lg border border-line bg-panel">
      {uploads.map((upload) => (
        <li key={upload.id} className="grid grid-cols-[1fr_auto] items-start gap-x-4 gap-y-1 px-4 py-2.5">
          <span className="min-w-0">
            <span className="block font-mono text-sm break-all">{upload.key}</span>
            <span className="block text-sm break-all text-quiet">
              {ofRepo(upload.repo)} · {upload.scope}
            </span>
          </span>
          <span className="text-right text-sm text-quiet tabular-nums max-sm:col-start-1 max-sm:text-left">
            <span className="text-ink">{bytes(upload.bytes)}</span> so far · being saved, begun {ago(millis(upload.begunAt), now)}
          </span>
        </li>
      ))}
    </ul>
  );
}

function EntryRow({ entry, now, onRemove }: { entry: CacheEntry; now: number; onRemove: (() => void) | undefined }) {
  return (
    <li className="grid grid-cols-[1fr_auto] items-start gap-x-4 gap-y-1 px-4 py-2.5 sm:grid-cols-[1fr_auto_auto]">
      <span className="min-w-0">
        <span className="block font-mono text-sm break-all">{entry.key}</span>
        <span className="block text-sm break-all text-quiet">
          {ofRepo(entry.repo)} · {entry.scope}
        </span>
      </span>
      <span className="text-right text-sm text-quiet tabular-nums max-sm:col-start-1 max-sm:text-left">
        <span className="text-ink">{bytes(entry.bytes)}</span> · used {ago(millis(entry.usedAt), now)}
      </span>
      {onRemove && (
        <button
          type="button"
          onClick={onRemove}
          aria-label={`Remove ${entry.key}`}
          className="rounded border border-line px-2 py-1 text-sm text-quiet hover:bg-hover hover:text-bad max-sm:col-start-2 max-sm:row-span-2 max-sm:row-start-1"
        >
          Remove
        </button>
      )}
    </li>
  );
}

/** Asks before an entry goes. */
function Removal({ entry, onEnd }: { entry: CacheEntry; onEnd: () => void }) {
  const queries = useQueryClient();
  const remove = useMutation({
    mutationFn: () => caches.removeCacheEntries({ filter: { id: entry.id } }),
    onSuccess: async () => {
      await queries.invalidateQueries({ queryKey: ["cache"] });
      onEnd();
    },
  });
  return (
    <Question
      title="Remove this entry?"
      yes="Remove"
      doing="Removing…"
      pending={remove.isPending}
      error={remove.error ? message(remove.error) : ""}
      onYes={() => remove.mutate()}
      onEnd={onEnd}
    >
      <p className="mt-2 font-mono text-sm break-all">{entry.key}</p>
      <p className="mt-2 text-sm text-quiet">
        {bytes(entry.bytes)} of {ofRepo(entry.repo)}, {entry.scope}. Jobs don't find it any more; one that is reading it goes on.
      </p>
    </Question>
  );
}
