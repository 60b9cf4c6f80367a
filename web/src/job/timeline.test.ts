import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { describe, expect, it } from "vitest";

import { TimelineSchema } from "../gen/nimbus/v1/job_pb";
import { duration, phases, spans } from "./timeline";

const at = (ms: number) => timestampFromMs(1_000_000 + ms);

describe("timeline", () => {
  it("orders phases by when they happened", () => {
    const t = create(TimelineSchema, { receivedAt: at(0), offeredAt: at(40), acceptedAt: at(50), firstOutputAt: at(900), runningAt: at(950), finishedAt: at(2000) });
    const reached = phases(t);
    expect(reached.map((p) => [p.name, p.sinceStart, p.sinceLast])).toEqual([
      ["received", 0, 0],
      ["offered", 40, 40],
      ["accepted", 50, 10],
      ["first output", 900, 850],
      ["running", 950, 50],
      ["finished", 2000, 1050],
    ]);
  });

  it("goes on until now while the job does", () => {
    const t = create(TimelineSchema, { receivedAt: at(0), offeredAt: at(40), acceptedAt: at(50) });
    expect(spans(phases(t), 1_000_000 + 500)).toEqual([
      { kind: "wait", from: 0, to: 40 },
      { kind: "boot", from: 40, to: 500 },
    ]);
  });

  it("is empty for a job that nobody has seen", () => {
    expect(phases(undefined)).toEqual([]);
    expect(spans([], 5)).toEqual([]);
  });

  it("says durations as people do", () => {
    expect([312, 4210, 187_000, 7_500_000].map(duration)).toEqual(["312 ms", "4.2 s", "3 min 07 s", "2 h 05 min"]);
  });
});
