import type { Span } from "../gen/nimbus/v1/telemetry_pb";
import { millis } from "./timeline";

/** A span as it stands in a waterfall. */
export interface Row {
  key: string;
  span: Span;
  depth: number;
  children: number; // of its own, not of theirs
  from: number; // of the time that the waterfall shows: 0 to 1
  to: number;
  took: number | undefined; // ms; undefined while it goes on
  odd: boolean; // it ends before it begins, by a clock that was set back
}

const keyOf = (s: Span) => `${s.traceId}${s.spanId}`;

/**
 * Orders spans as a tree, each below its parent, without what lies below those that
 * are shut. What has no parent here, as where that was never sent, is below the job's
 * run, and so is the first of those that are each other's parents. Whatever a job
 * says, each span is there once at most.
 */
export function rows(spans: Span[], shut: ReadonlySet<string>, now: number): Row[] {
  const here = new Set(spans.map(keyOf));
  const run = spans.find((s) => s.lifecycle && s.name === "run");
  const below = new Map<string, Span[]>();
  const roots: Span[] = [];
  for (const s of spans) {
    const parent = s.traceId + s.parentSpanId;
    const under = s.parentSpanId && here.has(parent) && parent !== keyOf(s) ? parent : !s.lifecycle && run ? keyOf(run) : "";
    const siblings = below.get(under);
    if (!under) roots.push(s);
    else if (siblings) siblings.push(s);
    else below.set(under, [s]);
  }
  for (const s of lost(spans, roots, below)) {
    const siblings = run && below.get(keyOf(run));
    if (siblings) siblings.push(s);
    else if (run) below.set(keyOf(run), [s]);
    else roots.push(s);
  }
  const { from, length } = extent(spans, now);
  const place = (ms: number | undefined) => Math.min(Math.max(((ms ?? now) - from) / length, 0), 1);
  const out: Row[] = [];
  const done = new Set<Span>();
  const walk = (root: Span) => {
    const stack = [{ span: root, depth: 0, hidden: false }];
    for (let top = stack.pop(); top; top = stack.pop()) {
      const { span, depth, hidden } = top;
      if (done.has(span)) continue;
      done.add(span);
      const key = keyOf(span);
      const own = below.get(key) ?? [];
      const [began, ended] = [millis(span.start), millis(span.end)];
      if (!hidden) {
        const took = began !== undefined && ended !== undefined ? ended - began : undefined;
        const odd = took !== undefined && took < 0;
        out.push({ key, span, depth, children: own.length, from: place(began), to: odd ? place(began) : place(ended), took: odd ? 0 : took, odd });
      }
      for (const child of own.toReversed()) stack.push({ span: child, depth: depth + 1, hidden: hidden || shut.has(key) });
    }
  };
  for (const s of roots) walk(s);
  return out;
}

/** The first of those spans that no root leads to, since they are each other's parents. */
function lost(spans: Span[], roots: Span[], below: ReadonlyMap<string, Span[]>): Span[] {
  const reached = new Set<Span>();
  const reach = (from: Span) => {
    const stack = [from];
    for (let s = stack.pop(); s; s = stack.pop()) {
      if (reached.has(s)) continue;
      reached.add(s);
      stack.push(...(below.get(keyOf(s)) ?? []));
    }
  };
  for (const s of roots) reach(s);
  return spans.filter((s) => {
    if (reached.has(s)) return false;
    reach(s);
    return true;
  });
}

/** The time that a waterfall shows: the job's own life, whatever clock a job has. */
function extent(spans: Span[], now: number): { from: number; length: number } {
  const life = spans.filter((s) => s.lifecycle);
  const shown = life.length > 0 ? life : spans;
  let [from, to] = [Infinity, -Infinity];
  for (const s of shown) {
    from = Math.min(from, millis(s.start) ?? now);
    to = Math.max(to, millis(s.end) ?? now);
  }
  return { from, length: Math.max(to - from, 1) };
}
