import { useQuery } from "@tanstack/react-query";
import { type KeyboardEvent, useMemo, useRef, useState } from "react";

import { telemetry as service } from "../api";
import type { Job } from "../gen/nimbus/v1/job_pb";
import type { GetTraceResponse, Span } from "../gen/nimbus/v1/telemetry_pb";
import { useNow } from "../ui/now";
import { isFinished } from "./state";
import { duration } from "./timeline";
import { type Row, rows } from "./trace";

/** How many spans of a job's processes are looked at; those that came first. */
const most = 5000;
const interval = 5000;
const rowHeight = 24;
const mostShown = 16; // rows before the list scrolls
const around = 10;
const mostIndent = 10;

/** A job's time down to what its processes sent, where they sent anything. */
export function TraceView({ job }: { job: Job }) {
  const over = isFinished(job);
  const { data } = useQuery({
    queryKey: ["trace", job.id, job.attemptId, over],
    queryFn: ({ signal }) => service.getTrace({ jobId: job.id, limit: most }, { signal }),
    enabled: job.attemptId !== "",
    refetchInterval: over ? false : interval,
    placeholderData: (before) => before,
  });
  if (!data || (data.sent === 0n && data.logs === 0n && data.points === 0n)) return null;
  return (
    <section aria-label="Trace" data-testid="trace" className="rounded-lg border border-line bg-panel p-4">
      <h2 className="flex flex-wrap items-baseline gap-x-3 text-base font-semibold">
        Trace <span className="text-sm font-normal text-quiet">{counts(data)}</span>
      </h2>
      <Waterfall spans={data.spans} ongoing={!over} />
      {data.leftOut > 0n && (
        <p className="mt-2 text-sm text-warn">
          {String(data.leftOut)} spans are not shown here, of those that came last: <code>nimbus job trace --limit 10000 {job.id}</code>
        </p>
      )}
    </section>
  );
}

function counts(t: GetTraceResponse): string {
  const words = (n: bigint, one: string) => (n === 0n ? "" : `${n} ${one}${n === 1n ? "" : "s"}`);
  return [words(t.sent, "span"), words(t.logs, "log record"), words(t.points, "metric point")].filter(Boolean).join(", ") + " of its processes";
}

function Waterfall({ spans, ongoing }: { spans: Span[]; ongoing: boolean }) {
  const [shut, setShut] = useState<ReadonlySet<string>>(new Set());
  const [at, setAt] = useState(0);
  const [open, setOpen] = useState("");
  const now = useNow(ongoing);
  const all = useMemo(() => rows(spans, shut, now), [spans, shut, now]);
  const scroller = useRef<HTMLDivElement>(null);
  const [scrolled, setScrolled] = useState(0);
  // Rows have one height: those that can be seen, and some around them, are drawn.
  const first = Math.max(Math.floor(scrolled / rowHeight) - around, 0);
  const seen = all.slice(first, first + mostShown + 2 * around);
  const here = Math.min(at, all.length - 1);
  const chosen = all.find((r) => r.key === open);

  const go = (i: number) => {
    const to = Math.min(Math.max(i, 0), all.length - 1);
    setAt(to);
    const box = scroller.current;
    if (!box) return;
    if (to * rowHeight < box.scrollTop) box.scrollTop = to * rowHeight;
    else if ((to + 1) * rowHeight > box.scrollTop + box.clientHeight) box.scrollTop = (to + 1) * rowHeight - box.clientHeight;
  };
  const fold = (key: string, folded: boolean) => {
    const next = new Set(shut);
    if (folded) next.add(key);
    else next.delete(key);
    setShut(next);
  };
  const onKeyDown = (e: KeyboardEvent) => {
    const row = all[here];
    if (!row || e.ctrlKey || e.altKey || e.metaKey) return;
    switch (e.key) {
      case "ArrowDown":
        go(here + 1);
        break;
      case "ArrowUp":
        go(here - 1);
        break;
      case "Home":
        go(0);
        break;
      case "End":
        go(all.length - 1);
        break;
      case "ArrowLeft":
        if (row.children > 0 && !shut.has(row.key)) fold(row.key, true);
        else go(all.findLastIndex((r, i) => i < here && r.depth < row.depth));
        break;
      case "ArrowRight":
        if (shut.has(row.key)) fold(row.key, false);
        else if (row.children > 0) go(here + 1);
        break;
      case "Enter":
      case " ":
        setOpen(open === row.key ? "" : row.key);
        break;
      default:
        return;
    }
    e.preventDefault();
  };

  return (
    <>
      <div
        ref={scroller}
        role="tree"
        aria-label="Spans, as a waterfall"
        aria-activedescendant={`span-${here}`}
        tabIndex={0}
        onKeyDown={onKeyDown}
        onScroll={(e) => setScrolled(e.currentTarget.scrollTop)}
        className="mt-2 overflow-y-auto rounded border border-line"
        style={{ height: Math.min(all.length, mostShown) * rowHeight + 2 }}
      >
        <div role="presentation" className="relative" style={{ height: all.length * rowHeight }}>
          {seen.map((row, i) => (
            <SpanRow
              key={row.key}
              row={row}
              index={first + i}
              top={(first + i) * rowHeight}
              current={first + i === here}
              folded={shut.has(row.key)}
              onFold={() => fold(row.key, !shut.has(row.key))}
              onOpen={() => {
                setAt(first + i);
                setOpen(open === row.key ? "" : row.key);
              }}
            />
          ))}
        </div>
      </div>
      {chosen && <Details row={chosen} />}
    </>
  );
}

interface SpanRowProps {
  row: Row;
  index: number;
  top: number;
  current: boolean;
  folded: boolean;
  onFold: () => void;
  onOpen: () => void;
}

function SpanRow({ row, index, top, current, folded, onFold, onOpen }: SpanRowProps) {
  const { span } = row;
  const colour = span.status === "error" ? "bg-bad" : span.lifecycle ? "bg-quiet" : "bg-busy";
  return (
    // The tree has the focus and its keys: this is for pointers.
    // eslint-disable-next-line jsx-a11y/click-events-have-key-events
    <div
      id={`span-${index}`}
      role="treeitem"
      aria-level={row.depth + 1}
      aria-selected={current}
      aria-expanded={row.children > 0 ? !folded : undefined}
      tabIndex={-1}
      onClick={onOpen}
      className={`absolute inset-x-0 flex cursor-pointer items-center gap-2 px-2 text-sm ${current ? "bg-hover" : ""}`}
      style={{ top, height: rowHeight }}
    >
      <span className="flex w-2/5 min-w-0 shrink-0 items-center gap-1 sm:w-1/3" style={{ paddingLeft: `${Math.min(row.depth, mostIndent) * 0.7}rem` }}>
        <span
          aria-hidden
          className="w-3 shrink-0 text-quiet"
          onClick={(e) => {
            e.stopPropagation();
            if (row.children > 0) onFold();
          }}
        >
          {row.children > 0 ? (folded ? "▸" : "▾") : ""}
        </span>
        <span className={`truncate ${span.status === "error" ? "text-bad" : ""}`}>{span.name}</span>
      </span>
      <span aria-hidden className="relative h-2.5 min-w-0 flex-1">
        <span className={`absolute h-full rounded-sm ${colour}`} style={{ left: `${row.from * 100}%`, width: `max(2px, ${(row.to - row.from) * 100}%)` }} />
      </span>
      <span className={`w-24 shrink-0 text-right whitespace-nowrap tabular-nums ${row.odd ? "text-warn" : "text-quiet"}`} title={row.odd ? endsFirst : undefined}>
        {row.took === undefined ? "…" : duration(row.took)}
        {row.odd && " (!)"}
      </span>
    </div>
  );
}

const endsFirst = "It ends before it begins: its sender's clock was set back, or is wrong.";

function Details({ row }: { row: Row }) {
  const { span } = row;
  const facts: [string, string][] = [
    ["Time", row.odd ? endsFirst : ""],
    ["Service", span.service],
    ["Scope", span.scope],
    ["Kind", span.kind],
    ["Status", [span.status, span.statusMessage].filter(Boolean).join(": ")],
    ["Trace", span.traceId],
    ["Span", span.spanId],
    ...Object.entries(span.attributes).toSorted(([a], [b]) => a.localeCompare(b)),
  ];
  return (
    // What scrolls is reached by the keyboard, too.
    // eslint-disable-next-line jsx-a11y/no-noninteractive-tabindex
    <div role="region" aria-label="The chosen span" aria-live="polite" tabIndex={0} className="mt-2 max-h-80 overflow-auto rounded border border-line p-3 text-sm">
      <h3 className="font-semibold break-words">{span.name}</h3>
      <dl className="mt-1 grid grid-cols-1 gap-x-4 sm:grid-cols-[minmax(8rem,auto)_1fr]">
        {facts
          .filter(([, value]) => value !== "")
          .map(([name, value]) => (
            <div key={name} className="contents">
              <dt className="break-words text-quiet">{name}</dt>
              <dd className="min-w-0 break-words whitespace-pre-wrap">{value}</dd>
            </div>
          ))}
      </dl>
      {span.events.map((e, i) => (
        <p key={i} className="mt-1 break-words">
          <span className="text-quiet">event</span> {e.name}{" "}
          <span className="text-quiet">
            {Object.entries(e.attributes)
              .map(([name, value]) => `${name}=${value}`)
              .join(" ")}
          </span>
        </p>
      ))}
    </div>
  );
}
