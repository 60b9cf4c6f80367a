import { expect, test } from "vitest";

import { ofRepo, ratio } from "./figures";
import { cacheSearch } from "./filter";

test("no look-up is no ratio", () => {
  expect(ratio(0n, 0n)).toBe("–");
  expect(ratio(3n, 1n)).toBe("75 %");
  expect(ratio(0n, 4n)).toBe("0 %");
});

test("the org's own jobs have no repository", () => {
  expect([ofRepo(""), ofRepo("octo/hello")]).toEqual(["the org's own jobs", "octo/hello"]);
});

test("of an address nothing is taken but the filter", () => {
  expect(cacheSearch({ repo: " octo/hello ", prefix: 7, scope: "x" })).toEqual({ repo: "octo/hello", prefix: "7" });
  expect(cacheSearch({ repo: ["a"], prefix: " " })).toEqual({});
  expect(cacheSearch({ prefix: "k".repeat(1000) }).prefix).toHaveLength(512);
});
