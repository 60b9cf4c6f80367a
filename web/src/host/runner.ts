import type { RunnerStanding } from "../gen/nimbus/v1/host_pb";
import { millis } from "../job/timeline";
import type { Tone } from "../job/state";

const day = 24 * 60 * 60 * 1000;

/** How GitHub's runner on a host stands against the releases, at a time. */
export function runnerWords(standing: RunnerStanding | undefined, now: number): { text: string; tone: Tone } {
  const since = millis(standing?.newerSince);
  const refused = millis(standing?.refusedAt);
  if (!standing?.latest) return { text: "", tone: "quiet" };
  if (since === undefined || refused === undefined) return { text: ", the latest", tone: "quiet" };
  const newer = `${standing.latest} is out; one newer than this since ${days(now - since)}.`;
  if (now >= refused) return { text: `${newer} GitHub gives this one no jobs any more: nimbus images build`, tone: "bad" };
  const date = new Date(refused).toISOString().slice(0, 10);
  return { text: `${newer} GitHub gives this one no jobs in ${days(refused - now)}, from ${date} on: nimbus images build`, tone: "warn" };
}

function days(ms: number): string {
  const n = Math.floor(ms / day);
  return n < 1 ? "less than a day" : n === 1 ? "1 day" : `${n} days`;
}
