import type { FoundLine } from "../gen/nimbus/v1/log_pb";
import { hides, seenOf } from "./commands";
import { visible } from "./terminal";

/** What the logs of all jobs are searched for: what the address says. */
export interface LogSearch {
  text?: string;
  /** The text is a regular expression. */
  pattern?: true;
  level?: Level;
  step?: number;
  repo?: string;
  /** KEY=VALUE each; KEY= for any value. */
  meta?: string[];
  /** Only lines that are no older; a day where the address says nothing. */
  since?: Since;
}

export const levels = ["debug", "info", "warn", "error"] as const;
export type Level = (typeof levels)[number];

const hour = 3_600_000;

/** How far back a search may look, and its length in ms; all has no end. */
export const spans = { "1h": hour, "24h": 24 * hour, "7d": 7 * 24 * hour, "30d": 30 * 24 * hour, all: undefined } as const;
export type Since = keyof typeof spans;
export const usualSince: Since = "24h";

/** What a person reads of how far back it goes. */
export const spanWords: Record<Since, string> = { "1h": "Last hour", "24h": "Last 24 hours", "7d": "Last 7 days", "30d": "Last 30 days", all: "All time" };

/** What the server takes at most. */
export const maxMeta = 16;
const longestText = 1000;
const longest = 512;
const maxStep = 1_000_000;

/** Reads the address. What is none of ours is left out. */
export function logSearch(search: Record<string, unknown>): LogSearch {
  const out: LogSearch = {};
  const text = said(search.text);
  if (text) out.text = text.slice(0, longestText);
  if (search.pattern === true) out.pattern = true;
  const level = levels.find((l) => l === search.level);
  if (level) out.level = level;
  const step = Number(search.step);
  if (Number.isInteger(step) && step > 0 && step <= maxStep) out.step = step;
  const repo = said(search.repo).trim();
  if (repo) out.repo = repo.slice(0, longest);
  const meta = (Array.isArray(search.meta) ? search.meta : [search.meta]).map((m) => said(m).trim().slice(0, longest)).filter((m) => pairOf(m)[0] !== "");
  if (meta.length > 0) out.meta = [...new Set(meta)].slice(0, maxMeta);
  if (typeof search.since === "string" && Object.hasOwn(spans, search.since) && search.since !== usualSince) out.since = search.since as Since;
  return out;
}

/** The router reads what looks like a number as one. */
function said(value: unknown): string {
  if (typeof value === "string") return value;
  return typeof value === "number" || typeof value === "boolean" ? String(value) : "";
}

/** Whether anything is looked for: how far back alone is no search. */
export function isAsked({ text, level, step, repo, meta }: LogSearch): boolean {
  return (text ?? level ?? step ?? repo ?? meta) !== undefined;
}

/** The metadata that is asked for; of a key that is there twice the last counts. */
export function metadataOf(meta: readonly string[] = []): Record<string, string> {
  return Object.fromEntries(meta.map(pairOf));
}

function pairOf(said: string): [key: string, value: string] {
  const at = said.indexOf("=");
  return at < 0 ? [said, ""] : [said.slice(0, at), said.slice(at + 1)];
}

/** What was found in the log of one attempt of a job. */
export interface Group {
  attemptId: string;
  /** "" for a job that is forgotten. */
  jobId: string;
  name: string;
  repo: string;
  /** Its page shows another log. */
  earlier: boolean;
  lines: FoundLine[];
}

/** What was found, by the log that it is in: the lines of one come one after the other. */
export function groupsOf(lines: readonly FoundLine[]): Group[] {
  const out: Group[] = [];
  for (const line of lines) {
    const last = out.at(-1);
    if (last?.attemptId === line.attemptId) last.lines.push(line);
    else out.push({ attemptId: line.attemptId, jobId: line.jobId, name: line.jobName, repo: line.repo, earlier: line.earlierAttempt, lines: [line] });
  }
  return out;
}

const longestShown = 1000;
const before = 200;

/**
 * The part of a line that is shown: of a very long one what is around its first match,
 * without colours. What is only in what a terminal does not show is shown as it was written.
 */
export function excerpt(text: string, find: RegExp | undefined): string {
  if (text.length <= longestShown) return text;
  let seen = seenOf(text).text;
  if (find && seen.search(find) < 0 && text.search(find) >= 0 && !hides(text)) seen = visible(text);
  const match = find ? seen.search(find) : 0;
  const from = Math.max(0, match - before);
  const to = from + longestShown;
  return `${from > 0 ? "…" : ""}${seen.slice(from, to)}${to < seen.length ? "…" : ""}`;
}
