import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";

import { FoundLineSchema } from "../gen/nimbus/v1/log_pb";
import { excerpt, groupsOf, isAsked, logSearch, metadataOf } from "./orgsearch";

test("of an address nothing is taken but the filter", () => {
  const whole = { text: " a b", pattern: true, level: "warn", step: 3, repo: "octo/hello", meta: ["model=A", "seed="], since: "7d" };
  expect(logSearch(whole)).toEqual(whole);
  expect(logSearch({ text: 7, step: "4", meta: "model=A", repo: " octo/hello " })).toEqual({ text: "7", step: 4, meta: ["model=A"], repo: "octo/hello" });
  expect(logSearch({ text: "", pattern: "yes", level: "loud", step: -1, repo: ["a"], meta: ["", "=x", {}], since: "toString", other: 1 })).toEqual({});
  expect(logSearch({ since: "24h", meta: ["a=1", "a=1"] })).toEqual({ meta: ["a=1"] });
  expect(logSearch({ text: "x".repeat(2000) }).text).toHaveLength(1000);
  expect(logSearch({ meta: Array.from({ length: 40 }, (_, i) => `k${i}=`) }).meta).toHaveLength(16);
});

test("how far back alone is no search", () => {
  expect([{}, { since: "1h" as const }, { pattern: true as const }].map(isAsked)).toEqual([false, false, false]);
  expect([{ text: "x" }, { step: 1 }, { meta: ["a="] }].map(isAsked)).toEqual([true, true, true]);
});

test("metadata is cut at its first equals sign", () => {
  expect(metadataOf(["model=a=b", "seed=", "nightly"])).toEqual({ model: "a=b", seed: "", nightly: "" });
});

test("what is found is grouped by its log", () => {
  const line = (attemptId: string, seq: number) => create(FoundLineSchema, { attemptId, jobId: "job", jobName: "Train", seq: BigInt(seq) });
  const groups = groupsOf([line("b", 1), line("b", 4), line("a", 2)]);
  expect(groups.map((g) => [g.attemptId, g.name, g.lines.map((l) => Number(l.seq))])).toEqual([
    ["b", "Train", [1, 4]],
    ["a", "Train", [2]],
  ]);
});

test("of a very long line the match is shown", () => {
  expect(excerpt("short \u001b[31mred", /red/g)).toBe("short \u001b[31mred");
  const long = `${"x".repeat(5000)}\u001b[31mneedle\u001b[0m${"y".repeat(5000)}`;
  const shown = excerpt(long, /needle/g);
  expect(shown).toMatch(/^…x{200}needley+…$/);
  expect(shown.length).toBe(1002);
  expect(excerpt(long, undefined)).toMatch(/^x{1000}…$/);
  expect(excerpt(long, /nothing/g)).toMatch(/^x{1000}…$/);
});
