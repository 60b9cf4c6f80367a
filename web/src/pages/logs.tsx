import { Code, ConnectError } from "@connectrpc/connect";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { type QueryKey, useInfiniteQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { type KeyboardEvent, type ReactNode, type SubmitEvent, useEffect, useRef, useState } from "react";

import { logs, message } from "../api";
import type { FoundLine } from "../gen/nimbus/v1/log_pb";
import { millis } from "../job/timeline";
import { excerpt, type Group, groupsOf, isAsked, levels, type LogSearch, logSearch, maxMeta, metadataOf, type Since, spans, spanWords, usualSince } from "../log/orgsearch";
import { askedFor, marksOf } from "../log/search";
import { Text } from "../log/text";
import { Command, Loading, Notice } from "../ui/notice";
import { bytes } from "../ui/words";

/** Searches the logs of all jobs of the org. What for is in the address. */
export function LogsPage({ search }: { search: LogSearch }) {
  return (
    <>
      <h1 className="mb-4 text-xl font-semibold">Logs</h1>
      <Filter search={search} />
      {isAsked(search) ? <Results search={search} /> : <Hints />}
    </>
  );
}

const keyOf = (search: LogSearch): QueryKey => ["logs", search];

const plain = "rounded border border-line px-3 py-1.5 text-sm hover:bg-hover disabled:text-quiet";
const field = "h-8 w-full min-w-0 rounded border border-line bg-panel px-2.5 py-1.5 text-sm text-ink placeholder:text-quiet";

function Filter({ search }: { search: LogSearch }) {
  const navigate = useNavigate();
  const queries = useQueryClient();
  const submit = (event: SubmitEvent<HTMLFormElement>) => {
    event.preventDefault();
    const form = new FormData(event.currentTarget);
    const next = logSearch({ ...Object.fromEntries(form), pattern: form.has("pattern"), meta: form.getAll("meta") });
    // Asked again, it is looked for again: there may be more by now.
    if (JSON.stringify(next) === JSON.stringify(search)) void queries.resetQueries({ queryKey: keyOf(search) });
    else void navigate({ to: "/logs", search: next });
  };
  const meta = search.meta ?? [];
  return (
    <form onSubmit={submit} className="mb-5 grid grid-cols-2 items-end gap-3 sm:grid-cols-4" role="search" aria-label="Search the logs of all jobs">
      <div className="col-span-full flex flex-wrap items-end gap-3">
        <Labelled name="Text" wide>
          <input
            type="search"
            name="text"
            defaultValue={search.text ?? ""}
            placeholder="connection refused"
            maxLength={1000}
            spellCheck={false}
            autoCapitalize="none"
            className={`${field} font-mono`}
          />
        </Labelled>
        <label className="flex cursor-pointer items-center gap-1.5 py-1.5 text-sm text-quiet hover:text-ink" title="A regular expression (RE2)">
          <input type="checkbox" name="pattern" defaultChecked={search.pattern ?? false} className="accent-accent" />
          Pattern
        </label>
        <button type="submit" className="rounded border border-accent px-4 py-1.5 text-sm font-medium hover:bg-hover">
          Search
        </button>
      </div>
      <Labelled name="Level, at least">
        <select name="level" defaultValue={search.level ?? ""} className={field}>
          <option value="">All lines</option>
          {levels.map((l) => (
            <option key={l} value={l}>
              {l}
            </option>
          ))}
        </select>
      </Labelled>
      <Labelled name="Since">
        <select name="since" defaultValue={search.since ?? usualSince} className={field}>
          {(Object.keys(spans) as Since[]).map((s) => (
            <option key={s} value={s}>
              {spanWords[s]}
            </option>
          ))}
        </select>
      </Labelled>
      <Labelled name="Repository">
        <input name="repo" defaultValue={search.repo ?? ""} placeholder="owner/name" maxLength={512} spellCheck={false} autoCapitalize="none" className={field} />
      </Labelled>
      <Labelled name="Step">
        <input name="step" type="number" min={1} max={1_000_000} defaultValue={search.step ?? ""} placeholder="its number" className={field} />
      </Labelled>
      {/* One is always there to be filled in: each search adds the next. */}
      {[...meta, ""].slice(0, maxMeta).map((pair, i) => (
        <Labelled key={i} name={i === 0 ? "Metadata of the job" : i < meta.length ? `Metadata, ${i + 1}` : "And"}>
          <input name="meta" defaultValue={pair} placeholder="KEY=VALUE" maxLength={512} spellCheck={false} autoCapitalize="none" className={field} />
        </Labelled>
      ))}
      {(isAsked(search) || search.since !== undefined) && (
        <div>
          <Link to="/logs" search={{}} className="inline-block py-1.5 text-sm text-quiet hover:text-ink">
            Clear all
          </Link>
        </div>
      )}
    </form>
  );
}

function Labelled({ name, wide = false, children }: { name: string; wide?: boolean; children: ReactNode }) {
  return (
    <label className={`grid min-w-0 gap-1 text-sm text-quiet ${wide ? "flex-1 basis-60" : ""}`}>
      {name}
      {children}
    </label>
  );
}

function Hints() {
  return (
    <Notice title="Search the logs of all jobs">
      <p>
        A text in small letters is found in capitals, too. A pattern is a regular expression: <Command>out of (memory|disk)</Command>
      </p>
      <p>
        Without a text, a level finds what went wrong: <Link to="/logs" search={{ level: "error" }}>errors of the last 24 hours</Link>
      </p>
      <p>
        Metadata finds the jobs that were given it: <Command>nimbus run --meta model=llama-3</Command>
      </p>
    </Notice>
  );
}

/** A page of an answer: where it ends, and since when all pages look. */
interface Asked {
  token: string;
  since: number | undefined;
}

/** How many lines are asked for at once. */
const pageLines = 100;
/** How many pages without a line are asked for before somebody has to say so. */
const maxEmpty = 40;

function useFound(search: LogSearch) {
  return useInfiniteQuery({
    queryKey: keyOf(search),
    initialPageParam: undefined as Asked | undefined,
    queryFn: async ({ pageParam, signal }) => {
      const span = spans[search.since ?? usualSince];
      const asked = pageParam ?? { token: "", since: span === undefined ? undefined : Date.now() - span };
      const answer = await logs.searchLogs(
        {
          ...askedFor(search.text ?? "", search.pattern ?? false),
          level: search.level ?? "",
          step: search.step ?? 0,
          repo: search.repo ?? "",
          metadata: metadataOf(search.meta),
          since: asked.since === undefined ? undefined : timestampFromMs(asked.since),
          pageSize: pageLines,
          pageToken: asked.token,
        },
        { signal },
      );
      return { lines: answer.lines, scanned: answer.scannedBytes, next: answer.nextPageToken ? { token: answer.nextPageToken, since: asked.since } : undefined };
    },
    getNextPageParam: (last) => last.next,
    // A search is made when it is asked for, not by itself.
    staleTime: Infinity,
    refetchOnWindowFocus: false,
    refetchOnReconnect: false,
    retry: (count, e) => count < 2 && ConnectError.from(e).code === Code.Unavailable,
  });
}

function Results({ search }: { search: LogSearch }) {
  const { data, error, isPending, hasNextPage, isFetching, fetchNextPage } = useFound(search);
  const queries = useQueryClient();
  const [stopped, setStopped] = useState(false);
  const pages = data?.pages ?? [];
  const lines = pages.flatMap((page) => page.lines);
  const scanned = pages.reduce((sum, page) => sum + page.scanned, 0n);
  const empty = pages.length - 1 - pages.findLastIndex((page) => page.lines.length > 0);
  // A page is bounded in time: one without a line says nothing yet, and the next is asked for.
  const goesOn = hasNextPage && !stopped && !error && empty > 0 && empty % maxEmpty !== 0;
  useEffect(() => {
    if (goesOn && !isFetching) void fetchNextPage();
  }, [goesOn, isFetching, fetchNextPage]);

  if (isPending) return <Loading what="what is found" />;
  if (error && !data) {
    return (
      <Notice title="The logs can't be searched">
        <p role="alert">{message(error)}</p>
      </Notice>
    );
  }
  const groups = groupsOf(lines);
  const looking = isFetching || goesOn;
  return (
    <section aria-label="Found">
      <div className="mb-3 flex flex-wrap items-center gap-x-4 gap-y-2 text-sm text-quiet">
        <p role="status" data-testid="found">
          {standing({ lines: lines.length, logs: groups.length, scanned, whole: !hasNextPage, looking })}
        </p>
        {looking && empty > 0 && (
          <button
            type="button"
            className={plain}
            onClick={() => {
              setStopped(true);
              void queries.cancelQueries({ queryKey: keyOf(search) });
            }}
          >
            Stop
          </button>
        )}
      </div>
      {lines.length === 0 && !hasNextPage ? <Nothing search={search} /> : <Groups groups={groups} find={search.text ? marksOf(search.text, search.pattern ?? false) : undefined} />}
      {error && (
        <p role="alert" className="mt-3 text-sm text-bad">
          {message(error)}
        </p>
      )}
      {hasNextPage && !goesOn && (
        <button
          type="button"
          disabled={isFetching}
          onClick={() => {
            setStopped(false);
            void fetchNextPage();
          }}
          className={`mt-3 ${plain}`}
        >
          {isFetching ? "Looking…" : lines.length > 0 ? "Show more" : "Look further"}
        </button>
      )}
    </section>
  );
}

/** What was found, what was looked through for it, and whether that was all. */
function standing({ lines, logs, scanned, whole, looking }: { lines: number; logs: number; scanned: bigint; whole: boolean; looking: boolean }): string {
  const found = lines === 0 ? (whole ? "Nothing found" : "Nothing found so far") : `${count(lines, "line")} in ${count(logs, "log")}`;
  const through = `looked through ${bytes(scanned)} of text`;
  if (whole) return `${found} · ${through}, which is all`;
  return `${found} · ${through}${looking ? ", going on…" : "; there is more to look through"}`;
}

function count(n: number, what: string): string {
  return `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;
}

function Nothing({ search }: { search: LogSearch }) {
  return (
    <Notice title="No such line">
      {search.since !== "all" && (
        <p>
          Only lines of the {spanWords[search.since ?? usualSince].toLowerCase()} were looked at.{" "}
          <Link to="/logs" search={{ ...search, since: "all" }}>
            Search all time
          </Link>
        </p>
      )}
      {search.text !== undefined && !search.pattern && search.text !== search.text.toLowerCase() && <p>A text with capitals is found as it is written: in small letters it is found in both.</p>}
      <p>A line has a level where its text says so. How long logs are kept: nimbus logs retention.</p>
    </Notice>
  );
}

/** What is found, by log. j and k (or the arrows) move, Enter opens. */
function Groups({ groups, find }: { groups: Group[]; find: RegExp | undefined }) {
  const list = useRef<HTMLDivElement>(null);
  const move = (event: KeyboardEvent) => {
    const step = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 }[event.key];
    if (!step || event.metaKey || event.ctrlKey || event.altKey) return;
    const links = [...(list.current?.querySelectorAll<HTMLAnchorElement>("a[data-line]") ?? [])];
    const at = links.findIndex((link) => link === document.activeElement);
    links[Math.min(Math.max(at + step, 0), links.length - 1)]?.focus();
    event.preventDefault();
  };
  return (
    // The keys are a short cut; every line is a link of its own.
    // eslint-disable-next-line jsx-a11y/no-static-element-interactions
    <div ref={list} onKeyDown={move} className="grid gap-4">
      {groups.map((group) => (
        <GroupView key={group.attemptId} group={group} find={find} />
      ))}
    </div>
  );
}

function GroupView({ group, find }: { group: Group; find: RegExp | undefined }) {
  const { jobId, name, repo, earlier, lines } = group;
  const title = name || (jobId ? jobId : "A job that is forgotten");
  return (
    <article aria-label={title} className="min-w-0 overflow-hidden rounded-lg border border-line bg-panel">
      <header className="flex flex-wrap items-baseline gap-x-3 border-b border-line px-4 py-2">
        <h2 className="min-w-0 font-medium break-words">
          {jobId ? (
            <Link to="/jobs/$jobId" params={{ jobId }}>
              {title}
            </Link>
          ) : (
            title
          )}
        </h2>
        <p className="text-sm text-quiet">
          {[repo, day(lines[0]), count(lines.length, "line"), earlier && "an earlier attempt, which the job's page does not show"].filter(Boolean).join(" · ")}
        </p>
      </header>
      <ol className="divide-y divide-line bg-log font-mono text-[12.5px] leading-5">
        {lines.map((line) => (
          <li key={String(line.seq)}>
            {jobId && !earlier ? (
              <Link data-line to="/jobs/$jobId" params={{ jobId }} hash={`L${line.seq}`} className={`${row} hover:bg-hover focus-visible:-outline-offset-2`}>
                <LineView line={line} find={find} />
              </Link>
            ) : (
              <div className={row}>
                <LineView line={line} find={find} />
              </div>
            )}
          </li>
        ))}
      </ol>
    </article>
  );
}

const row = "grid grid-cols-[6.5rem_4rem_1fr] gap-x-3 px-4 py-1 no-underline max-sm:grid-cols-[auto_1fr]";

function LineView({ line, find }: { line: FoundLine; find: RegExp | undefined }) {
  const at = new Date(millis(line.at) ?? 0).toISOString();
  return (
    <>
      <time dateTime={at} title={at} className="text-quiet tabular-nums">
        {at.slice(11, 23)}
      </time>
      <span className="text-quiet">{line.step > 0 ? `step ${line.step}` : ""}</span>
      <span className="min-w-0 break-words whitespace-pre-wrap [overflow-wrap:anywhere] max-sm:col-span-2">
        <Text
          line={{ seq: Number(line.seq), at, stream: streamOf(line.stream), step: line.step, group: line.group, text: excerpt(line.text, find) }}
          find={find}
          within
        />
      </span>
    </>
  );
}

const streams = ["stdout", "stderr", "system", "step"] as const;

function streamOf(name: string): (typeof streams)[number] {
  return streams.find((s) => s === name) ?? "stdout";
}

function day(line: FoundLine | undefined): string {
  const at = millis(line?.at);
  return at === undefined ? "" : new Date(at).toISOString().slice(0, 10);
}
