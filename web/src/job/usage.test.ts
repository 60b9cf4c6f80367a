import { create } from "@bufbuild/protobuf";
import { describe, expect, it } from "vitest";

import { UsageSeriesSchema } from "../gen/nimbus/v1/job_pb";
import { amount, ceiling, charts, path, summary } from "./usage";

const mib = 1024 * 1024;
const series = create(UsageSeriesSchema, {
  points: [
    { atMs: 1000n, cpuMs: 500n, memoryBytes: BigInt(10 * mib), writtenBytes: 100n },
    { atMs: 2000n, cpuMs: 1500n, memoryBytes: BigInt(30 * mib), writtenBytes: 100n },
    { atMs: 6000n, cpuMs: 3500n, memoryBytes: BigInt(20 * mib), writtenBytes: BigInt(4 * mib + 100) },
  ],
});

describe("usage", () => {
  it("is rates, but for memory", () => {
    const [cpu, memory, disk, ...more] = charts(series, 2, 64);
    expect(cpu?.lines[0]?.values).toEqual([0.5, 1, 0.5]);
    expect(memory?.lines[0]?.values).toEqual([10 * mib, 30 * mib, 20 * mib]);
    expect(disk?.lines.map((l) => l.values)).toEqual([
      [100, 0, mib],
      [0, 0, 0],
    ]);
    expect(more).toEqual([]); // nothing went over a network
  });

  it("shows a network that was used", () => {
    const sent = create(UsageSeriesSchema, { points: [{ atMs: 1000n }, { atMs: 2000n, sentBytes: 7n }] });
    expect(charts(sent, 1, 64).map((c) => c.name)).toEqual(["CPU", "Memory", "Network"]);
  });

  it("shows GPUs that a job has", () => {
    const used = create(UsageSeriesSchema, {
      points: [{ atMs: 1000n }, { atMs: 3000n, gpuMs: 3000n, gpuMemoryBytes: BigInt(5 * mib), gpuMillijoules: 800_000n }],
    });
    const [, , gpu, memory, power] = charts(used, 1, 64);
    expect(gpu?.lines[0]?.values).toEqual([0, 1.5]);
    expect([gpu, memory, power].map((c) => c && summary(c))).toEqual(["1.50, at most 1.50", "5.0 MiB, at most 5.0 MiB", "400 W, at most 400 W"]);
  });

  it("has nothing to draw of a single point", () => {
    expect(charts(undefined, 1, 1)).toEqual([]);
    expect(charts(create(UsageSeriesSchema, { points: [{ atMs: 1n }] }), 1, 1)).toEqual([]);
  });

  it("is drawn below what the job could have", () => {
    const [cpu, memory, disk] = charts(series, 2, 64);
    expect([cpu, memory, disk].map((c) => (c ? ceiling(c) : 0))).toEqual([2, 64 * mib, mib]);
    expect(cpu && path(cpu.at, cpu.lines[0]?.values ?? [], 2, 100, 40)).toBe("M0.0 30.0L20.0 20.0L100.0 30.0");
  });

  it("is said in a sentence", () => {
    expect(charts(series, 2, 64).map(summary)).toEqual([
      "0.50, at most 1.00 of 2",
      "20.0 MiB, at most 30.0 MiB of 64.0 MiB",
      "written at most 1.0 MiB/s; read at most 0 B/s",
    ]);
    expect([amount(0, "B"), amount(1536, "B"), amount(300 * mib, "B/s")]).toEqual(["0 B", "1.5 KiB", "300 MiB/s"]);
  });
});
