import { describe, expect, it } from "vitest";

import { type Line, lineOfHash, rowOf, rows } from "./fold";
import { LogStream, type Source } from "./stream";

function line(seq: number, text: string, stream: Line["stream"] = "stdout", step = 0): Line {
  return { seq, at: "2026-11-24T12:00:00Z", stream, step, text };
}

const log = [line(1, "before"), line(2, "Build", "step", 1), line(3, "cc", "stdout", 1), line(4, "Test", "step", 2), line(5, "ok", "stdout", 2)];

describe("rows", () => {
  it("counts the lines of each step and hides those of a folded one", () => {
    const got = rows(log, new Set([1]));
    expect(got.map((r) => (r.kind === "step" ? `${r.line.text}(${r.lines}${r.folded ? ", folded" : ""})` : r.line.text))).toEqual([
      "before",
      "Build(1, folded)",
      "Test(1)",
      "ok",
    ]);
  });

  it("finds the row of a line, or the head that hides it", () => {
    expect(rowOf(rows(log, new Set()), 3)).toBe(2);
    expect(rowOf(rows(log, new Set([1])), 3)).toBe(1);
  });

  it("reads permalinks and nothing else", () => {
    expect(lineOfHash("#L12")).toBe(12);
    expect(lineOfHash("#L")).toBeUndefined();
    expect(lineOfHash("#L1x")).toBeUndefined();
  });
});

class FakeSource implements Source {
  listeners = new Map<string, (event: MessageEvent<string>) => void>();
  closed = false;
  addEventListener(type: string, listener: (event: MessageEvent<string>) => void): void {
    this.listeners.set(type, listener);
  }
  close(): void {
    this.closed = true;
  }
  send(type: string, data: unknown): void {
    this.listeners.get(type)?.({ data: JSON.stringify(data) } as MessageEvent<string>);
  }
}

describe("LogStream", () => {
  const start = () => {
    const source = new FakeSource();
    const stream = new LogStream("job_1", () => source, (run) => run());
    stream.subscribe(() => undefined);
    source.send("attempt", { attempt_id: "att_1" });
    return { source, stream };
  };

  it("drops lines that it has after a reconnect", () => {
    const { source, stream } = start();
    for (const l of [log[0], log[1], log[0], log[1], log[2]]) source.send("line", l);
    expect(stream.snapshot().lines.map((l) => l.seq)).toEqual([1, 2, 3]);
  });

  it("starts anew with a new attempt", () => {
    const { source, stream } = start();
    source.send("line", log[0]);
    source.send("attempt", { attempt_id: "att_2" });
    expect(stream.snapshot().lines).toEqual([]);
    source.send("line", log[0]);
    expect(stream.snapshot().lines).toHaveLength(1);
  });

  it("closes at the end, and knows whether every line is there", () => {
    const { source, stream } = start();
    source.send("complete", { complete: false });
    expect(stream.snapshot()).toMatchObject({ ended: true, complete: false });
    expect(source.closed).toBe(true);
  });
});
