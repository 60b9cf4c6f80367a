import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { describe, expect, it } from "vitest";

import { SpanSchema } from "../gen/nimbus/v1/telemetry_pb";
import { rows } from "./trace";

const span = (spanId: string, parentSpanId: string, from: number, to: number, lifecycle = false) =>
  create(SpanSchema, { traceId: "t", spanId, parentSpanId, name: spanId, start: timestampFromMs(from), end: timestampFromMs(to), lifecycle });

const life = [span("job", "", 1000, 2000, true), span("run", "job", 1200, 1900, true)];
const shape = (all: ReturnType<typeof rows>) => all.map((r) => `${"  ".repeat(r.depth)}${r.span.name}`);

describe("trace", () => {
  it("has each span below its parent, and what has none below the run", () => {
    const spans = [...life, span("child", "work", 1400, 1500), span("work", "run", 1300, 1800), span("orphan", "nobody", 1350, 1360)];
    const all = rows(spans, new Set(), 0);
    expect(shape(all)).toEqual(["job", "  run", "    work", "      child", "    orphan"]);
    expect(all.map((r) => [r.from, r.to, r.took])).toEqual([
      [0, 1, 1000],
      [0.2, 0.9, 700],
      [0.3, 0.8, 500],
      [0.4, 0.5, 100],
      [0.35, 0.36, 10],
    ]);
  });

  it("shows nothing below what is shut", () => {
    const spans = [...life, span("work", "run", 1300, 1800), span("child", "work", 1400, 1500)];
    expect(shape(rows(spans, new Set(["trun"]), 0))).toEqual(["job", "  run"]);
  });

  it("shows spans once that are each other's parents, and their own", () => {
    const spans = [...life, span("a", "b", 1, 2), span("b", "a", 1, 2), span("self", "self", 1, 2)];
    expect(shape(rows(spans, new Set(), 0))).toEqual(["job", "  run", "    self", "    a", "      b"]);
  });

  it("shows no time below 0", () => {
    const all = rows([...life, span("odd", "run", 1500, 1400), span("even", "run", 1500, 1500)], new Set(), 0);
    expect(all.slice(2).map((r) => [r.span.name, r.from, r.to, r.took, r.odd])).toEqual([
      ["odd", 0.5, 0.5, 0, true],
      ["even", 0.5, 0.5, 0, false],
    ]);
  });

  it("keeps to the job's time, whatever clock a job has", () => {
    const all = rows([...life, span("early", "run", 5, 10), span("late", "run", 1e9, 2e9)], new Set(), 0);
    expect(all.slice(2).map((r) => [r.from, r.to])).toEqual([
      [0, 0],
      [1, 1],
    ]);
  });

  it("bears thousands of spans in a row", () => {
    const deep = Array.from({ length: 10_000 }, (_, i) => span(String(i), i === 0 ? "run" : String(i - 1), 1300, 1400));
    expect(rows([...life, ...deep], new Set(), 0).at(-1)?.depth).toBe(10_001);
  });
});
