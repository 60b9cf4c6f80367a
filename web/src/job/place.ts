import type { QueuePlace } from "../gen/nimbus/v1/job_pb";
import { millis } from "./timeline";

/** Where a waiting job stands, in a sentence. */
export function placeWords(place: QueuePlace, now: number): string {
  const count = `${place.atLeast ? "at least " : ""}${place.ahead} ${place.ahead === 1 ? "job" : "jobs"} before it`;
  const where = place.ahead === 0 && !place.atLeast ? "It is next" : `There ${place.ahead === 1 ? "is" : "are"} ${count}`;
  const start = millis(place.startAt);
  if (start === undefined) return `${where}. When it starts can't be told: ${place.unknown}.`;
  return start - now < 5000 ? `${where}, and starts about now.` : `${where}. It starts in about ${about(start - now)}.`;
}

/** A guess must not look like a measurement: seconds in fives, then minutes. */
function about(ms: number): string {
  if (ms < 90_000) return `${Math.max(5, Math.round(ms / 5000) * 5)} s`;
  const min = Math.round(ms / 60_000);
  return min < 90 ? `${min} min` : `${Math.round(min / 60)} h`;
}
