import { amount } from "../job/usage";

/** A size for people, in units of 1024. */
export function bytes(n: bigint): string {
  return amount(Number(n), "B");
}

/** How much of a quota is used, in whole percent; over it is over 100. */
export function percent(used: bigint, quota: bigint): number {
  if (quota <= 0n) return used > 0n ? 100 : 0;
  return Math.round((100 * Number(used)) / Number(quota));
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
