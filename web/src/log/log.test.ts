import { describe, expect, it, vi } from "vitest";

import { type Line, LogModel, type OutlineAnswer, pageLines, type Server, type Source } from "./model";
import { groupTitle, hiddenBy, Layout, lineOfHash, Outline, type Section } from "./outline";
import { rowHeight, scrollFor, windowOf } from "./rows";
import { Search, told } from "./search";

/** Waits until something is so, for as long as a busy machine may take. */
const eventually = (so: () => void): Promise<void> => vi.waitFor(so, { timeout: 30_000 });

function line(seq: number, text = `line ${seq}`, change: Partial<Line> = {}): Line {
  return { seq, at: "2026-11-24T12:00:00Z", stream: "stdout", step: 0, text, ...change };
}

const grouped = [
  line(1, "before"),
  line(2, "Build", { stream: "step", step: 1 }),
  line(3, "::group::Outer", { group: 1 }),
  line(4, "##[group]Inner", { group: 2 }),
  line(5, "::endgroup::", { group: 2 }), // commands are stopped: it ends nothing
  line(6, "deep", { group: 2 }),
  line(7, "::endgroup::", { group: 2 }),
  line(8, "::endgroup::", { group: 1 }),
  line(9, "::group::At once", { group: 3 }),
  line(10, "Test", { stream: "step", step: 2 }),
  line(11, "::group::Goes on", { group: 4 }),
];

const sections: Section[] = [
  { kind: "step", id: 1, first: 2, last: 9, title: "Build" },
  { kind: "group", id: 1, first: 3, last: 8, title: "Outer" },
  { kind: "group", id: 2, first: 4, last: 7, title: "Inner" },
  { kind: "group", id: 3, first: 9, last: 9, title: "At once" },
  { kind: "step", id: 2, first: 10, last: 0, title: "Test" },
  { kind: "group", id: 4, first: 11, last: 0, title: "Goes on" },
];

describe("Outline", () => {
  it("finds steps, and groups in one another", () => {
    const outline = new Outline();
    for (const l of grouped) outline.add(l);
    expect(outline.sections).toEqual(sections);
  });

  it("goes on with what the server has found", () => {
    for (let cut = 0; cut < grouped.length; cut++) {
      const server = new Outline();
      for (const l of grouped.slice(0, cut)) server.add(l);
      const outline = new Outline();
      outline.reset(server.sections, server.last);
      for (const l of grouped) outline.add(l); // what it has seen is left out
      expect(outline.sections, `cut at ${cut}`).toEqual(sections);
    }
  });

  it("names groups as jobs and the runner write them", () => {
    expect(["::group::A b", "##[group]A b", "::group title=x::A b"].map(groupTitle)).toEqual(["A b", "A b", "A b"]);
  });

  it("reads permalinks and nothing else", () => {
    expect(["#L12", "#L", "#L1x"].map(lineOfHash)).toEqual([12, undefined, undefined]);
  });
});

describe("Layout", () => {
  it("leaves out what is folded, and finds each line's row", () => {
    const hidden = hiddenBy(sections, (s) => s.kind === "group", 12);
    expect(hidden).toEqual([
      { from: 4, to: 8 },
      { from: 12, to: 12 },
    ]);
    const layout = new Layout(hidden, 12);
    expect(Array.from({ length: layout.rows }, (_, row) => layout.line(row))).toEqual([1, 2, 3, 9, 10, 11]);
    expect(layout.row(6)).toBe(2); // the group that hides it
    expect(layout.row(12)).toBe(5);
  });

  it("agrees with a plain list, whatever is folded", () => {
    for (let round = 0; round < 300; round++) {
      const last = 1 + Math.floor(Math.random() * 60);
      const some = Array.from({ length: 6 }, (_, i): Section => {
        const first = 1 + Math.floor(Math.random() * last);
        return { kind: "group", id: i, first, last: Math.random() < 0.2 ? 0 : Math.min(last, first + Math.floor(Math.random() * 20)), title: "" };
      });
      const hidden = hiddenBy(some, () => true, last);
      const plain = Array.from({ length: last }, (_, i) => i + 1).filter((n) => !some.some((s) => n > s.first && n <= (s.last || last)));
      const layout = new Layout(hidden, last);
      expect(Array.from({ length: layout.rows }, (_, row) => layout.line(row))).toEqual(plain);
      for (let n = 1; n <= last; n++) expect(layout.row(n)).toBe(plain.findLastIndex((shown) => shown <= n));
    }
  });
});

describe("rows", () => {
  it("draws what is seen and a little more", () => {
    expect(windowOf(1000, 0, 400)).toEqual({ first: 0, end: 40, top: 0, height: 1000 * rowHeight });
    expect(windowOf(1000, 5000, 400)).toMatchObject({ first: 230, end: 290, top: 230 * rowHeight });
    expect(windowOf(3, 0, 400)).toMatchObject({ first: 0, end: 3 });
  });

  it("reaches both ends of a list that is taller than a page can be", () => {
    const rows = 10_000_000;
    const { height } = windowOf(rows, 0, 400);
    expect(height).toBeLessThan(17_000_000); // what Firefox draws
    expect(windowOf(rows, 0, 400).first).toBe(0);
    expect(windowOf(rows, height - 400, 400).end).toBe(rows);
    for (const row of [50, 1234, 5_000_000, 9_999_000]) {
      const seen = windowOf(rows, Math.round(scrollFor(rows, row, 400)), 400);
      expect(seen.first + 20).toBeGreaterThan(row - 3);
      expect(seen.first + 20).toBeLessThan(row + 3);
    }
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

class FakeServer implements Server {
  source = new FakeSource();
  asked: number[] = [];
  answer: OutlineAnswer = { attempt_id: "att_1", lines: 0, sections: [] };
  outlines = 0;
  fail = false;
  readonly #all: number;
  constructor(all: number) {
    this.#all = all;
  }
  open(): Source {
    return this.source;
  }
  lines(_: string, from: number, limit: number): Promise<Line[]> {
    this.asked.push(from);
    if (this.fail) return Promise.reject(new Error("away"));
    return Promise.resolve(Array.from({ length: Math.max(0, Math.min(limit, this.#all - from + 1)) }, (_, i) => line(from + i)));
  }
  outline(): Promise<OutlineAnswer> {
    this.outlines++;
    return Promise.resolve(this.answer);
  }
}

describe("LogModel", () => {
  const start = (all = 0) => {
    const server = new FakeServer(all);
    const model = new LogModel("job_1", server, (run) => run());
    const stop = model.subscribe(() => undefined);
    server.source.send("attempt", { attempt_id: "att_1" });
    return { server, model, stop };
  };

  it("drops lines that it has after a reconnect", () => {
    const { server, model } = start();
    for (const seq of [1, 2, 1, 2, 3]) server.source.send("line", line(seq));
    expect(model.snapshot().last).toBe(3);
    expect(model.line(2)?.text).toBe("line 2");
  });

  it("starts anew with a new attempt", () => {
    const { server, model } = start();
    server.source.send("line", line(1, "Build", { stream: "step", step: 1 }));
    expect(model.snapshot().sections).toHaveLength(1);
    server.source.send("attempt", { attempt_id: "att_2" });
    expect(model.snapshot()).toMatchObject({ last: 0, sections: [] });
    expect(model.line(1)).toBeUndefined();
  });

  it("closes at the end, and knows whether every line is there", () => {
    const { server, model } = start();
    server.source.send("complete", { complete: false });
    expect(model.snapshot()).toMatchObject({ ended: true, complete: false });
    expect(server.source.closed).toBe(true);
  });

  it("shows where lines are damaged, and goes on behind them", () => {
    const { server, model } = start();
    server.source.send("line", line(1));
    server.source.send("damaged", { first: 2, last: 4 });
    server.source.send("line", line(5));
    expect(model.snapshot()).toMatchObject({ last: 5, outlined: 5 });
    expect([2, 3, 4, 5].map((seq) => model.line(seq)?.text)).toEqual(["lines 2 to 4 are damaged on the server and can't be read", "", "", "line 5"]);
  });

  it("asks no more of a log that can't be read", () => {
    const { server, model } = start();
    server.source.send("fault", { code: "internal", message: "internal error" });
    expect(model.snapshot()).toMatchObject({ ended: true, complete: false, fault: "internal error" });
    expect(server.source.closed).toBe(true);
  });

  it("fetches what is looked at, once, and keeps a bounded part of a log of a million lines", async () => {
    const all = 1_000_000;
    const { server, model } = start(all);
    server.answer = { attempt_id: "att_1", lines: all, sections: [] };
    for (let seq = all - 499; seq <= all; seq++) server.source.send("line", line(seq));
    await eventually(() => expect(server.outlines).toBe(1));
    model.want(500_000, 500_060);
    model.want(500_000, 500_060);
    await eventually(() => expect(model.line(500_060)).toBeDefined());
    expect(server.asked).toEqual([500_000 - pageLines + 1, 500_001]); // the pages that the range touches
    for (let at = 1; at < 450 * pageLines; at += pageLines) {
      model.want(at, at + 10);
      await new Promise((done) => setTimeout(done));
      expect(model.line(at)).toBeDefined();
    }
    expect(model.line(500_060)).toBeUndefined(); // others were looked at since
    model.want(all - 100, all);
    expect(model.snapshot().last).toBe(all);
  });

  it("has the server outline what came before, and goes on by itself", async () => {
    const { server, model } = start(11);
    server.answer = { attempt_id: "att_1", lines: 9, sections: sections.slice(0, 4) };
    for (const l of grouped.slice(8)) server.source.send("line", l);
    await eventually(() => expect(model.snapshot().sections).toEqual(sections));
    expect(server.outlines).toBe(1);
  });

  it("says what it can't read, and tries again", async () => {
    vi.useFakeTimers();
    const { server, model, stop } = start(1000);
    server.fail = true;
    server.source.send("line", line(1000));
    model.want(1, 40);
    await vi.advanceTimersByTimeAsync(10);
    expect(model.snapshot().fault).toBe("away");
    server.fail = false;
    const before = model.snapshot().version;
    await vi.advanceTimersByTimeAsync(5000);
    expect(model.snapshot().version).toBeGreaterThan(before); // who shows lines wants them again
    model.want(1, 40);
    await vi.advanceTimersByTimeAsync(10);
    expect(model.snapshot().fault).toBe("");
    stop();
    vi.useRealTimers();
  });
});

describe("Search", () => {
  const start = (pages: { lines: number[]; next: string }[]) => {
    const asked: [string, boolean, string][] = [];
    const search = new Search((text, pattern, token) => {
      asked.push([text, pattern, token]);
      const page = pages[asked.length - 1];
      return page ? Promise.resolve(page) : Promise.reject(new Error("away"));
    });
    return { asked, search };
  };

  it("goes to the first line that is not above, on, back and around", async () => {
    const { search } = start([{ lines: [3, 8, 12], next: "" }]);
    expect(await search.look("x", false, 5)).toBe(8);
    expect(told(search.snapshot())).toBe("2 of 3");
    expect([await search.step(1), await search.step(1), await search.step(-1)]).toEqual([12, 3, 12]);
  });

  it("goes to the first as soon as it is there, and looks for the rest", async () => {
    const { asked, search } = start([
      { lines: [], next: "a" },
      { lines: [4], next: "b" },
      { lines: [], next: "c" },
      { lines: [9], next: "" },
    ]);
    expect(await search.look("Text", false, 1)).toBe(4);
    await eventually(() => expect(search.snapshot().whole).toBe(true));
    expect(told(search.snapshot())).toBe("1 of 2");
    expect(await search.step(1)).toBe(9);
    expect(asked).toEqual(["", "a", "b", "c"].map((token) => ["Text", false, token]));
  });

  it("waits to be asked for more than a thousand", async () => {
    const many = Array.from({ length: 1000 }, (_, i) => i + 1);
    const { asked, search } = start([
      { lines: many, next: "a" },
      { lines: [2000], next: "" },
    ]);
    expect(await search.look("Text", false, 1000)).toBe(1000);
    await eventually(() => expect(search.snapshot().busy).toBe(false));
    expect(told(search.snapshot())).toBe("1,000 of 1,000+");
    expect(asked).toHaveLength(1);
    expect(await search.step(1)).toBe(2000);
  });

  it("finds what is written small in capitals too, and nothing of it is a pattern", async () => {
    const { asked, search } = start([{ lines: [], next: "" }]);
    await search.look("a.b (c)", false, 1);
    expect(asked).toEqual([["(?i)a\\.b \\(c\\)", true, ""]]);
    expect("A.B (C) a-b (c)".replace(search.snapshot().marks ?? /^/, "!")).toBe("! a-b (c)");
    expect(told(search.snapshot())).toBe("Not found");
  });

  it("says what went wrong", async () => {
    const { search } = start([]);
    expect(await search.look("(", true, 1)).toBeUndefined();
    expect(told(search.snapshot())).toContain("away");
    expect(search.snapshot().marks).toBeUndefined();
  });
});
