import { expect, test } from "vitest";

import { ago, bytes, ofRepo, percent, ratio } from "./figures";
import { cacheSearch } from "./filter";

test("sizes are for people", () => {
  expect([0n, 1023n, 1536n, 300n << 20n, 5n << 40n].map(bytes)).toEqual(["0 B", "1023 B", "1.5 KiB", "300 MiB", "5.0 TiB"]);
});

test("no look-up is no ratio", () => {
  expect(ratio(0n, 0n)).toBe("–");
  expect(ratio(3n, 1n)).toBe("75 %");
  expect(ratio(0n, 4n)).toBe("0 %");
});

test("a quota is used up at most", () => {
  expect([percent(1n, 4n), percent(9n, 4n), percent(0n, 0n), percent(1n, 0n)]).toEqual([25, 100, 0, 100]);
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

test("the org's own jobs have no repository", () => {
  expect([ofRepo(""), ofRepo("octo/hello")]).toEqual(["the org's own jobs", "octo/hello"]);
});

test("of an address nothing is taken but the filter", () => {
  expect(cacheSearch({ repo: " octo/hello ", prefix: 7, scope: "x" })).toEqual({ repo: "octo/hello", prefix: "7" });
  expect(cacheSearch({ repo: ["a"], prefix: " " })).toEqual({});
  expect(cacheSearch({ prefix: "k".repeat(1000) }).prefix).toHaveLength(512);
});
