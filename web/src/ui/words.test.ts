import { expect, test } from "vitest";

import { ago, bytes, percent } from "./words";

test("sizes are for people", () => {
  expect([0n, 1023n, 1536n, 300n << 20n, 5n << 40n].map(bytes)).toEqual(["0 B", "1023 B", "1.5 KiB", "300 MiB", "5.0 TiB"]);
});

test("a quota may be passed", () => {
  expect([percent(1n, 3n), percent(300n, 200n), percent(0n, 0n), percent(1n, 0n)]).toEqual([33, 150, 0, 100]);
});

test("times are told in their largest unit", () => {
  const now = 10 * 86_400_000;
  expect([now, now - 59_000, now - 60_000, now - 7_300_000, now - 86_400_000 * 3, now + 5000].map((t) => ago(t, now))).toEqual([
    "just now",
    "just now",
    "1 minute ago",
    "2 hours ago",
    "3 days ago",
    "just now",
  ]);
  expect(ago(undefined, now)).toBe("never");
});
