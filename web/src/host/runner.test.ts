import { create } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { expect, test } from "vitest";

import { RunnerStandingSchema } from "../gen/nimbus/v1/host_pb";
import { runnerWords } from "./runner";

const at = (iso: string) => new Date(iso);
const standing = (since?: string, refused?: string) =>
  create(RunnerStandingSchema, {
    latest: "2.338.0",
    newerSince: since ? timestampFromDate(at(since)) : undefined,
    refusedAt: refused ? timestampFromDate(at(refused)) : undefined,
  });

test.each([
  ["nothing known", undefined, "2026-10-01", "", "quiet"],
  ["the latest", standing(), "2026-10-01", ", the latest", "quiet"],
  ["behind", standing("2026-10-01", "2026-10-31"), "2026-10-13", "since 12 days. GitHub gives this one no jobs in 18 days, from 2026-10-31 on", "warn"],
  ["behind, last day", standing("2026-10-01", "2026-10-31"), "2026-10-30T12:00:00Z", "no jobs in less than a day", "warn"],
  ["refused", standing("2026-10-01", "2026-10-31"), "2026-10-31", "since 30 days. GitHub gives this one no jobs any more", "bad"],
])("%s", (_, s, now, text, tone) => {
  const words = runnerWords(s, at(now).getTime());
  expect(words.text).toContain(text);
  expect(words.text === "").toBe(text === "");
  expect(words.tone).toBe(tone);
});
