import { useInfiniteQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";

import { message, registry } from "../api";
import type { RegistryRepo, RegistryUsage } from "../gen/nimbus/v1/registry_pb";
import { pulled, ruleWords } from "../image/words";
import { millis } from "../job/timeline";
import { Copyable } from "../ui/copy";
import { Meter } from "../ui/meter";
import { Command, Loading, Notice } from "../ui/notice";
import { useNow } from "../ui/now";
import { bytes, percent } from "../ui/words";

export function RegistryPage() {
  const { data, error, isPending, hasNextPage, isFetchingNextPage, fetchNextPage } = useInfiniteQuery({
    queryKey: ["registry"],
    queryFn: ({ signal, pageParam }) => registry.listRegistryRepos({ pageSize: 100, pageToken: pageParam }, { signal }),
    initialPageParam: "",
    getNextPageParam: (page) => page.nextPageToken || undefined,
    refetchInterval: 30_000,
  });
  const repos = data?.pages.flatMap((page) => page.repos) ?? [];
  const first = data?.pages[0];
  return (
    <>
      <h1 className="mb-4 text-xl font-semibold">Registry</h1>
      {isPending ? (
        <Loading what="repositories" />
      ) : error && !first ? (
        <Notice title="The registry can't be read">
          <p>{message(error)}</p>
        </Notice>
      ) : (
        <div className="grid gap-4">
          {first?.usage && first.usage.bytes > 0n && <Usage usage={first.usage} />}
          {repos.length === 0 ? <Empty org={first?.org ?? ""} /> : <Repos repos={repos} org={first?.org ?? ""} />}
          {hasNextPage && (
            <button
              type="button"
              disabled={isFetchingNextPage}
              onClick={() => void fetchNextPage()}
              className="justify-self-center rounded border border-line bg-panel px-4 py-1.5 hover:border-accent disabled:opacity-60"
            >
              Show more repositories
            </button>
          )}
        </div>
      )}
    </>
  );
}

/** How much of its quota the org uses. Near its end images make room, where rules let them. */
function Usage({ usage }: { usage: RegistryUsage }) {
  const used = percent(usage.bytes, usage.quota);
  const nearly = used >= 90;
  return (
    <section aria-label="Quota" className="rounded-lg border border-line bg-panel px-4 py-3">
      <div className="flex flex-wrap items-baseline justify-between gap-x-4 gap-y-1">
        <p>
          <span className="font-semibold">{bytes(usage.bytes)}</span> of {bytes(usage.quota)} used
        </p>
        <p className={`text-sm ${nearly ? "text-warn" : "text-quiet"}`}>
          {used} %{nearly && ": remove images, or set rules by which they go"}
        </p>
      </div>
      <Meter label="Quota used" used={used} />
    </section>
  );
}

function Repos({ repos, org }: { repos: RegistryRepo[]; org: string }) {
  const now = useNow(false);
  return (
    <ul aria-label="Repositories" className="divide-y divide-line overflow-hidden rounded-lg border border-line bg-panel">
      {repos.map((repo) => (
        <li key={repo.name}>
          <Link
            to="/registry/$"
            params={{ _splat: repo.name }}
            className="grid grid-cols-[1fr_auto] items-baseline gap-x-4 gap-y-0.5 px-4 py-2.5 no-underline hover:bg-hover focus-visible:-outline-offset-2"
          >
            <span className="min-w-0 font-medium break-words">
              <span className="text-quiet">{org}/</span>
              {repo.name}
            </span>
            <span className="text-right tabular-nums">{bytes(repo.bytes)}</span>
            <span className="min-w-0 text-sm break-words text-quiet">
              {[repo.tags === 1n ? "1 tag" : `${repo.tags} tags`, ...ruleWords(repo.rules)].join(" · ")}
            </span>
            <span className="text-right text-sm whitespace-nowrap text-quiet">{pulled(millis(repo.pulledAt), now)}</span>
          </Link>
        </li>
      ))}
    </ul>
  );
}

/** What to type for the first image. */
function Empty({ org }: { org: string }) {
  const host = window.location.host;
  return (
    <Notice title="No images yet">
      <p>
        <Command>nimbus tokens create</Command> makes the token that is the password here:
      </p>
      <Copyable label="the login" text={`docker login ${host} -u anybody`} />
      <Copyable label="the tag" text={`docker tag IMAGE ${host}/${org}/app:v1`} />
      <Copyable label="the push" text={`docker push ${host}/${org}/app:v1`} />
      <p>Jobs push to repositories that are called after their own.</p>
    </Notice>
  );
}
