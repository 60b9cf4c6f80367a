const units = ["B", "KiB", "MiB", "GiB", "TiB"];

/** A number of bytes for people. */
export function bytes(n: bigint): string {
  let value = Number(n);
  let i = 0;
  while (value >= 1024 && i < units.length - 1) {
    value /= 1024;
    i++;
  }
  return `${value.toFixed(i === 0 || value >= 100 ? 0 : 1)} ${units[i]}`;
}

/** How many look-ups found something, "–" before there was one. */
export function ratio(hits: bigint, misses: bigint): string {
  const all = hits + misses;
  return all === 0n ? "–" : `${Math.round((100 * Number(hits)) / Number(all))} %`;
}

/** How much of a quota is used, 0 to 100; what is over it is all of it. */
export function percent(used: bigint, quota: bigint): number {
  if (quota <= 0n) return used > 0n ? 100 : 0;
  return Math.min(100, Math.round((100 * Number(used)) / Number(quota)));
}

const steps: [number, Intl.RelativeTimeFormatUnit][] = [
  [86_400, "day"],
  [3_600, "hour"],
  [60, "minute"],
];

/** How long ago something was, in its largest unit. */
export function ago(then: number | undefined, now: number): string {
  if (then === undefined) return "never";
  const seconds = Math.max(0, (now - then) / 1000);
  const words = new Intl.RelativeTimeFormat("en", { numeric: "always" });
  for (const [size, unit] of steps) if (seconds >= size) return words.format(-Math.floor(seconds / size), unit);
  return "just now";
}

/** Of which repository's jobs something is: the org's own have none. */
export const ofRepo = (repo: string): string => repo || "the org's own jobs";
