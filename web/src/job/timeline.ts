import { type Timestamp, timestampDate } from "@bufbuild/protobuf/wkt";

import type { Timeline } from "../gen/nimbus/v1/job_pb";

/** Kinds of time in a job's life, each with its colour. */
export type Kind = "wait" | "boot" | "run" | "clean";

export interface Phase {
  name: string;
  at: number; // ms since the epoch
  sinceStart: number; // ms since the first phase
  sinceLast: number; // ms since the phase before
  kind: Kind; // what the time before this phase was spent on
}

export interface Span {
  kind: Kind;
  from: number; // ms since the first phase
  to: number;
}

const order: [keyof Timeline & `${string}At`, string, Kind][] = [
  ["receivedAt", "received", "wait"],
  ["admittedAt", "admitted", "wait"],
  ["queuedAt", "queued", "wait"],
  ["offeredAt", "offered", "wait"],
  ["acceptedAt", "accepted", "boot"],
  ["sandboxReadyAt", "sandbox ready", "boot"],
  ["runningAt", "running", "boot"],
  ["firstOutputAt", "first output", "run"],
  ["finishedAt", "finished", "run"],
  ["destroyedAt", "destroyed", "clean"],
];

/**
 * The phases that a job reached, in the order in which it reached them: GitHub
 * may say that a job runs after its first output was seen.
 */
export function phases(timeline: Timeline | undefined): Phase[] {
  if (!timeline) return [];
  const reached = order
    .map(([key, name, kind]) => ({ name, kind, at: millis(timeline[key]) }))
    .filter((p): p is { name: string; kind: Kind; at: number } => p.at !== undefined)
    .sort((a, b) => a.at - b.at);
  const start = reached[0]?.at ?? 0;
  return reached.map((p, i) => ({
    ...p,
    sinceStart: p.at - start,
    sinceLast: p.at - (reached[i - 1]?.at ?? p.at),
  }));
}

/** The same as spans of one kind each; `now` ends a job that still goes on. */
export function spans(reached: Phase[], now: number | undefined): Span[] {
  const out: Span[] = [];
  const add = (kind: Kind, from: number, to: number) => {
    const last = out.at(-1);
    if (last?.kind === kind) last.to = to;
    else if (to > from) out.push({ kind, from, to });
  };
  reached.forEach((p, i) => {
    if (i > 0) add(p.kind, reached[i - 1]?.sinceStart ?? 0, p.sinceStart);
  });
  const last = reached.at(-1);
  const first = reached[0];
  if (now !== undefined && last && first && now > last.at) {
    add(next(last.name), last.sinceStart, now - first.at);
  }
  return out;
}

/** What a job that has reached a phase is doing now. */
function next(name: string): Kind {
  switch (name) {
    case "received":
    case "admitted":
    case "queued":
      return "wait";
    case "offered":
    case "accepted":
    case "sandbox ready":
      return "boot";
    case "finished":
      return "clean";
    default:
      return "run";
  }
}

export function millis(t: Timestamp | undefined): number | undefined {
  return t ? timestampDate(t).getTime() : undefined;
}

/** A duration as people say it: 312 ms, 4.2 s, 3 min 07 s, 2 h 05 min. */
export function duration(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  const s = Math.round(ms / 1000);
  if (s < 3600) return `${Math.floor(s / 60)} min ${String(s % 60).padStart(2, "0")} s`;
  const min = Math.round(s / 60);
  return `${Math.floor(min / 60)} h ${String(min % 60).padStart(2, "0")} min`;
}
